"""What an installation may lack: commands of other roles than the one that somebody installed.

The extras of the distribution are its roles (pyproject.toml). A command whose packages are missing stays on the list,
and says what to install. Nothing is imported to find that out.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any, Final

import typer
from typer.models import CommandInfo

from federation.commandline.commands import Commands
from federation.errors import UsageError

PACKAGES: Final = MappingProxyType(
    {
        "device": ("PIL", "grpc", "numpy", "scipy", "tenseal"),
        "service": ("alembic", "grpc", "numpy", "prometheus_client", "starlette", "structlog", "tenseal"),
        "audit": ("fairlearn", "jinja2", "matplotlib", "numpy", "scipy"),
        "pkcs11": ("asn1crypto", "pkcs11"),
        "train": ("dp_accounting", "flwr", "httpx", "opacus", "opendp", "scipy", "torch"),
    }
)
"""Of each role, the packages that show whether it is installed."""


def require_extra(extra: str) -> None:
    """Returns when the packages of a role are installed.

    Raises:
        UsageError: one is not. Says what to install.
    """
    missing = [name for name in PACKAGES[extra] if find_spec(name) is None]
    if missing:
        raise UsageError(f"needs intaglio[{extra}]: pip install 'intaglio[{extra}]' ({', '.join(missing)} missing)")


@dataclass(frozen=True)
class Extra:
    """Mounts commands by their place; where they need an extra that is not installed, commands that say so.

    Attributes:
        name: of the extra, or None where none is needed.
        app: where its commands go.
    """

    name: str | None
    app: Commands

    def command(self, name: str, place: str) -> None:
        """Mounts the function at ``module:function`` as a command."""
        self.app.mount_command(name, lambda: self._found(name, place))

    def group(self, name: str, place: str) -> None:
        """Mounts the commands at ``module:group``."""
        self.app.mount_group(name, lambda: self._found(name, place))

    def _found(self, name: str, place: str) -> Any:  # noqa: ANN401 - a group, a function, or a command that refuses
        try:
            if self.name is not None:
                require_extra(self.name)
        except UsageError as error:
            return _refusal(name, str(error))
        module, _, attribute = place.partition(":")
        return getattr(importlib.import_module(module), attribute)


def _refusal(name: str, why: str) -> CommandInfo:
    def refuse(ctx: typer.Context) -> None:
        raise UsageError(f"{ctx.info_name} {why}")

    anything = {"ignore_unknown_options": True, "allow_extra_args": True}
    return CommandInfo(name, help=f"Not installed: {why}.", context_settings=anything, callback=refuse)
