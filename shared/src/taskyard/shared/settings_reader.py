"""Reads settings from the environment, by pydantic-settings; the only place that does.

Loaded when settings are read: it and what it needs are 10 MiB.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, Final, cast, get_type_hints

from pydantic import Field, SecretStr, ValidationError, create_model
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from taskyard.shared.errors import ConfigurationError
from taskyard.shared.naming import check_namespace
from taskyard.shared.secret import Secret
from taskyard.shared.settings import PREFIX, Settings


def read(given: Mapping[str, object]) -> dict[str, object]:
    """Return every setting by name: from the environment, but for what is given.

    Raises:
        ConfigurationError: a variable is not valid; the text names it.

    """
    shown: dict[str, Any] = {name: _shown(value) for name, value in given.items()}
    try:
        model = _model()(**shown)
    except ValidationError as error:
        raise ConfigurationError(_explain(error)) from error
    for name, value in model:
        _require_text(name, value)
    found = {name: _hidden(value) for name, value in model}
    check_namespace(cast("str", found["namespace"]))
    return found


class _Sources(BaseSettings):
    """Where settings come from; which there are is defined by `Settings`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="ignore", frozen=True, allow_inf_nan=False
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let `X_FILE` stand in for `X`; arguments win over files, files over variables."""
        del dotenv_settings, file_secret_settings
        return init_settings, _FileSource(settings_cls), env_settings


class _FileSource(EnvSettingsSource):
    """Reads `TASKYARD_X_FILE` as the file that holds `TASKYARD_X`."""

    def __call__(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name in self.settings_cls.model_fields:
            variable = f"{PREFIX}{name.upper()}_FILE"
            path = os.environ.get(variable)
            if path is None:
                continue
            try:
                found[name] = Path(path).read_text(encoding="utf-8").strip()
            except OSError as error:
                msg = f"{variable}: {path} cannot be read: {error.strerror}"
                raise ConfigurationError(msg) from error
            except UnicodeDecodeError as error:
                raise ConfigurationError(f"{variable}: {path} is not text in UTF-8") from error
        return found


#: Pydantic hides secrets, too: in what it says of values that do not fit.
_READ_AS: Final[dict[object, object]] = {Secret[str] | None: SecretStr | None}


@cache
def _model() -> type[BaseSettings]:
    hints = get_type_hints(Settings)
    definitions: dict[str, Any] = {
        each.name: (
            _READ_AS.get(hints[each.name], hints[each.name]),
            Field(each.default, **each.metadata),
        )
        for each in fields(Settings)
    }
    return create_model("Variables", __base__=_Sources, **definitions)


def _shown(value: object) -> object:
    return cast("Secret[object]", value).reveal() if isinstance(value, Secret) else value


def _hidden(value: object) -> object:
    return Secret(value.get_secret_value()) if isinstance(value, SecretStr) else value


def _require_text(name: str, value: object) -> None:
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if isinstance(text, str):
        try:
            text.encode()
        except UnicodeEncodeError:
            msg = f"{PREFIX}{name.upper()} is not text in UTF-8"
            raise ConfigurationError(msg) from None


def _explain(error: ValidationError) -> str:
    problems = [
        f"{PREFIX}{str(problem['loc'][0]).upper()}: {problem['msg']}"
        if problem["loc"]
        else problem["msg"]
        for problem in error.errors(include_input=False, include_url=False)
    ]
    return "; ".join(problems)
