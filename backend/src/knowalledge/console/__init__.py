"""Pages for people: the first page, the topic explorer and the operator's console."""
