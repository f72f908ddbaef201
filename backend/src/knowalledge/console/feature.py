"""The pages, as a feature: files of this package, and one stream of what the operator's page shows."""

from collections.abc import Sequence

import msgspec

from knowalledge.console.assets import Assets
from knowalledge.console.snapshots import Snapshots
from knowalledge.console.web import OPERATIONS, Here, ModelHere, blueprint
from knowalledge.core.clock import Clock
from knowalledge.core.feature import Feature
from knowalledge.providers.settings import ModelSettings


def build(
    features: Sequence[Feature], models: Sequence[ModelSettings], default_model: str, clock: Clock
) -> Feature:
    """Shows the statistics of ``features``, and what they say of their health."""
    sources = {name: read for feature in features for name, read in feature.statistics.items()}

    def snapshot() -> bytes:
        reasons = [reason for it in features for reason in (*it.not_ready(), *it.notes())]
        return msgspec.json.encode({name: read() for name, read in sources.items()} | {"reasons": reasons})

    snapshots = Snapshots(snapshot, clock)
    here = Here(
        default_model=default_model,
        models=tuple(
            ModelHere(it.name, any(target.spec.provider == "embedded" for target in it.targets))
            for it in models
        ),
    )
    return Feature(
        blueprints=(blueprint(Assets.load(), here, snapshots),), operations=OPERATIONS, drain=snapshots.close
    )
