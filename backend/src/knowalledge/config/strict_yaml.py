"""Strict YAML: no aliases, and keys that come twice are reported."""

from typing import Any

import yaml


class _StrictLoader(yaml.SafeLoader):
    """Refuses aliases: a configuration needs none, and nested ones can fill the memory."""

    def __init__(self, stream: bytes) -> None:
        super().__init__(stream)
        self.repeated: list[tuple[str, int]] = []

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen:
                self.repeated.append((name, key.start_mark.line + 1))
            seen.add(name)
        return super().construct_mapping(node, deep)

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        return super().compose_node(parent, index)


def parse_yaml(raw: bytes) -> tuple[Any, tuple[tuple[str, int], ...]]:
    """The document, and every repeated key with the line number of its repetition. Raises ``yaml.YAMLError``."""
    loader = _StrictLoader(raw)
    document = loader.get_single_data()
    return document, tuple(loader.repeated)
