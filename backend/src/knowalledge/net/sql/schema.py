"""The tables of a capability: made and changed by Alembic, from the files in its own ``migrations`` folder.

Each capability has a history of its own, and a table that says how far it has come. So one is added without the others.
"""

from importlib.resources import files
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from msgspec import Struct
from sqlalchemy import Connection, text

from knowalledge.net.sql.database import Database

# Taken while PostgreSQL's tables change, so that two that start at once do not both make them.
_LOCK = 7_311_942
# The longest that the tables of a large database may take, and the wait for another that changes them.
_UPGRADE_S = 1800.0


class SchemaError(Exception):
    """The database has other tables than this program needs; ``cure`` says what to do."""

    def __init__(self, wrong: str, cure: str) -> None:
        super().__init__(f"{wrong}; {cure}")
        self.wrong = wrong
        self.cure = cure


class Schema(Struct, frozen=True):
    """The tables of one capability. ``package``: such as ``knowalledge.identity``, which has ``migrations``."""

    package: str

    def upgrade(self, database: Database) -> str:
        """Bring the tables up to date; returns the revision that they then have."""

        def work(connection: Connection) -> str:
            if database.kind == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            self._refuse_future(connection)
            config = self._config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            return self._revision(connection)

        return database.write(work, timeout_s=_UPGRADE_S)

    def check(self, database: Database) -> None:
        """Raises ``SchemaError`` unless the tables are those that this program needs."""

        def work(connection: Connection) -> None:
            self._refuse_future(connection)
            if self._revision(connection) != self._scripts().get_current_head():
                raise SchemaError("the database lacks the newest tables", "run: knowalledge db upgrade")

        database.read(work)

    def _refuse_future(self, connection: Connection) -> None:
        known = {it.revision for it in self._scripts().walk_revisions()}
        revision = self._revision(connection)
        if revision and revision not in known:
            raise SchemaError(
                f"a newer version of this program made the database ({revision})",
                "start that version, or restore a backup from before",
            )

    def _revision(self, connection: Connection) -> str:
        context = MigrationContext.configure(connection, opts={"version_table": self._table})
        return context.get_current_revision() or ""

    @property
    def _table(self) -> str:
        return f"{self.package.rpartition('.')[2]}_schema"

    def _config(self) -> Config:
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).with_name("alembic")))
        config.set_main_option("version_locations", str(files(self.package) / "migrations"))
        config.set_main_option("path_separator", "newline")
        config.attributes["version_table"] = self._table
        return config

    def _scripts(self) -> ScriptDirectory:
        return ScriptDirectory.from_config(self._config())
