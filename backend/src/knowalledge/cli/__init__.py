"""The commands, `knowalledge doctor` and the generated reference pages among them."""
