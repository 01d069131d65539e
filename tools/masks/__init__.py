"""`make bench-masks`: how right masks are, whether verdicts notice, what they cost, what the proposal is worth."""
