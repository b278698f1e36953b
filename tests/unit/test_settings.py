"""One dial sets everything."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from kernelevolve import codec
from kernelevolve.errors import UsageError
from kernelevolve.settings import EFFORTS, Settings, settings_for


def test_more_effort_is_more_of_everything():
    quick, standard, deep = (asdict(settings_for(e)) for e in ("quick", "standard", "deep"))
    for name in ("candidates", "drafts", "plateau", "seconds", "tuner_trials", "seeds"):
        assert quick[name] <= standard[name] <= deep[name]
    assert set(quick["distributions"]) <= set(standard["distributions"]) <= set(deep["distributions"])


def test_an_unknown_effort_lists_the_known_ones():
    with pytest.raises(UsageError, match="unknown effort 'heroic'; known: quick, standard, deep"):
        settings_for("heroic")


@pytest.mark.parametrize("name", ["candidates", "writers", "seats", "seconds", "target"])
def test_what_must_be_above_zero_is(name):
    with pytest.raises(UsageError, match=f"{name} = 0"):
        replace(settings_for("quick"), **{name: 0})


@pytest.mark.parametrize("effort", EFFORTS)
def test_settings_travel_in_the_log(effort):
    assert codec.loads(Settings, codec.dumps(settings_for(effort))) == settings_for(effort)
