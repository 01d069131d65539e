"""The help pages of the nodes, made of what the schemas say, a text by hand in each language, and a picture."""
