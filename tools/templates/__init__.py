"""The example graphs of the template browser: what they hold, and how the real front end makes them."""
