"""What a rule or a bandit has learnt, as a JSON file: it can be named wherever a controller can, and holds no code.

What does not live here: what is in it (rules/, bandits/), how it was found (fitting.py), networks (bundle.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field

from agents.bandits import ArmState, LinUCBState
from agents.base import Controller
from agents.rules import LinkAware, Rejection
from agents.rules.fixed import Fixed
from agents.rules.levels import Levels
from runtime.errors import SettingError
from synera_env import EXACT, Deployment, Schema, read_json, write_json

FORMAT_VERSION = 1
SUFFIX = ".json"
Stated = Fixed | Levels | Rejection | LinkAware | ArmState | LinUCBState
"""What has a `kind`, and makes a controller of a schema."""


@dataclass(frozen=True)
class RuleFile:
    """The JSON of a rule."""

    __pydantic_config__ = EXACT

    system: Annotated[str, Field(min_length=1, max_length=80)]
    schema_hash: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    fingerprints: dict[str, Annotated[str, Field(min_length=1, max_length=200)]]
    """Of what its figures depend on (the SLM, the LLM, the tokenizer, the lens), by what it is."""
    rule: Annotated[Stated, Field(discriminator="kind")]
    provenance: dict[str, Any]
    """On what it was fitted: for readers, and nothing else."""
    format_version: Annotated[int, Field(ge=FORMAT_VERSION, le=FORMAT_VERSION)] = FORMAT_VERSION

    @classmethod
    def of(cls, rule: Stated, schema: Schema, deployment: Deployment, provenance: Mapping[str, Any]) -> Self:
        """Describe a rule that was just fitted."""
        return cls(schema.system, schema.hash, dict(deployment.fingerprints), rule, dict(provenance))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read it.

        Raises:
            TraceError: it is missing or damaged; names the field.
        """
        return read_json(path, cls, f"no rule at {path}; fit some with: synera fit-rules")

    def save(self, path: Path) -> None:
        """Write it, whole or not at all."""
        write_json(path, asdict(self))

    def controller(self, schema: Schema) -> Controller:
        """Make it act.

        Raises:
            SettingError: it was fitted for another schema.
        """
        if (self.system, self.schema_hash) != (schema.system, schema.hash):
            raise SettingError(
                f"this {self.rule.kind} rule was fitted for schema {self.schema_hash} of {self.system}, it would act in {schema.hash} "
                f"of {schema.system}; fit it again"
            )
        return self.rule.controller(schema)

    def require(self, deployment: Deployment) -> None:
        """Refuse a world or a device with another model, tokenizer or lens than it was fitted with.

        Raises:
            SettingError: one differs.
        """
        for what, here in deployment.fingerprints.items():
            if (wanted := self.fingerprints.get(what, here)) != here:
                raise SettingError(
                    f"this {self.rule.kind} rule was fitted with the {what} {wanted}, here it would meet {here}; fit it again with these"
                )
