"""The command line, and the generated reference pages."""
