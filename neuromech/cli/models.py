"""What `neuromech detect` looks at: a factory in an importable module, a saved `torch.export` program, or the
configuration of a Hugging Face model."""

from __future__ import annotations

import importlib
import inspect
import json
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from neuromech.cli.programs import checked
from neuromech.compat import tree_map_only
from neuromech.errors import NeuromechError

REAL = 100_000_000  # parameters up to which a configuration is built with numbers in it, so that claims can be verified
_BATCH, _TOKENS, _SAMPLES = 2, 8, 16_000


class LoadedModel(NamedTuple):
    """A model, an example of what it is called with, and the loss and target if there are any."""

    model: nn.Module
    example: Any
    loss: Callable[..., Any] | None = None
    target: Any = None


def load(where: str, meta: bool = False) -> LoadedModel:
    """The model that a person names: MODULE:CALLABLE, PROGRAM.pt2, CONFIG.json or a directory with a config.json.

    `meta`: without numbers in the parameters. Raises `NeuromechError` if there is no such thing, or if it is not what
    it should be.
    """
    path = Path(where)
    if path.suffix == ".pt2":
        given = _from_program(path)
    elif path.suffix == ".json" or path.is_dir():
        return _from_config(path, meta)  # which is built without numbers where it is large
    else:
        given = _from_factory(where)
    if not meta:
        return given
    example, target = (tree_map_only(Tensor, lambda t: t.to("meta"), x) for x in given[1::2])
    return LoadedModel(given.model.to("meta"), example, given.loss, target)


# -- a factory ------------------------------------------------------------------------------------------------------


def _from_factory(where: str) -> LoadedModel:
    module, colon, name = where.partition(":")
    if not (module and colon and name):
        raise NeuromechError(
            f"{where!r} is neither MODULE:CALLABLE (as nets:small), nor a saved program (.pt2), nor a configuration "
            "(.json)"
        )
    sys.path.insert(0, "")  # as python -m does: modules of the current directory count
    try:
        make = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise NeuromechError(f"cannot load {where}: {error}") from error
    try:
        inspect.signature(make).bind()
    except (TypeError, ValueError) as error:
        raise NeuromechError(f"{where} must be callable without arguments: {error}") from error
    given = make()
    if not isinstance(given, tuple) or not 2 <= len(given) <= 4:
        raise NeuromechError(
            f"{where} must return (model, example[, loss[, target]]), it returned {type(given).__name__}"
        )
    if not hasattr(given[0], "named_parameters"):
        raise NeuromechError(
            f"{where} must return a torch.nn.Module first, as in (model, example); it returned a "
            f"{type(given[0]).__name__} there"
        )
    return LoadedModel(*given)


# -- a saved program ------------------------------------------------------------------------------------------------


def _from_program(path: Path) -> LoadedModel:
    """A `torch.export` program with the example that it was exported with."""
    if not path.is_file():
        raise NeuromechError(f"there is no file {path}")
    content = checked(path)
    log = logging.getLogger("torch.export")  # of what is no program it tells at length
    before = log.level
    try:
        log.setLevel(logging.CRITICAL)
        program = torch.export.load(content)
    except Exception as error:  # whatever a file that is no program makes it say
        raise NeuromechError(
            f"{path} could not be read as a program saved by torch.export.save ({type(error).__name__}: {error})"
        ) from error
    finally:
        log.setLevel(before)
    if program.example_inputs is None:
        raise NeuromechError(f"{path} holds no example inputs: save the program as torch.export.export returned it")
    args, kwargs = program.example_inputs
    model = program.module()

    def with_keywords(_: nn.Module, given: tuple[Any, ...], more: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return given, {**kwargs, **more}

    if kwargs:
        model.register_forward_pre_hook(with_keywords, with_kwargs=True, prepend=True)
    return LoadedModel(model, tuple(args))


# -- a configuration ------------------------------------------------------------------------------------------------


def _from_config(path: Path, meta: bool) -> LoadedModel:
    """The model that a Hugging Face config.json describes, freshly initialised, in training mode."""
    try:
        import transformers
    except ImportError as error:
        raise NeuromechError(
            "reading a Hugging Face configuration needs transformers: pip install neuromech[hf]"
        ) from error
    file = path / "config.json" if path.is_dir() else path
    try:
        data = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise NeuromechError(f"{file} could not be read as a configuration: {error}") from error
    if not isinstance(data, dict) or "model_type" not in data:
        raise NeuromechError(f"{file} is not a configuration of a Hugging Face model: it names no model_type")
    transformers.logging.set_verbosity_error()
    try:
        config = transformers.AutoConfig.for_model(**data)
        named = next((a for a in data.get("architectures") or () if hasattr(transformers, a)), None)
        kind: Any = getattr(transformers, named) if named else transformers.AutoModel
        make = kind._from_config if named else kind.from_config
        with torch.device("meta"):
            model = make(config)
        if not meta and sum(p.numel() for p in model.parameters()) <= REAL:
            model = make(config)
    except Exception as error:  # whatever the library does not like about the configuration
        raise NeuromechError(f"{file}: no model could be built from it ({type(error).__name__}: {error})") from error
    with warnings.catch_warnings(), torch.device(next(model.parameters()).device):
        warnings.simplefilter("ignore")
        return LoadedModel(model.train(), _example_of(model))


def _example_of(model: Any) -> dict[str, Any]:
    """Inputs of the right shapes by keyword, with labels where the model makes a loss of them."""
    config, accepted = model.config, inspect.signature(model.forward).parameters
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    vision = getattr(config, "vision_config", config)
    vocabulary, padding = getattr(text, "vocab_size", None) or 2, getattr(text, "pad_token_id", None)
    ids = torch.randint(0, vocabulary, (_BATCH, _TOKENS))
    if padding is not None:  # PyTorch gives that row of an embedding no gradient, whatever it does to the loss
        ids = torch.where(ids == padding, (padding + 1) % vocabulary, ids)
    makers: dict[str, Callable[[], Tensor]] = {
        "input_ids": lambda: ids,
        "pixel_values": lambda: torch.randn(_BATCH, getattr(vision, "num_channels", 3), *_sides(vision)),
        "input_features": lambda: torch.randn(_BATCH, config.num_mel_bins, 2 * config.max_source_positions),
        "input_values": lambda: torch.randn(_BATCH, _SAMPLES),
    }
    main = model.main_input_name
    if main not in makers:
        raise NeuromechError(
            f"{type(model).__name__} takes {main}, and its shape cannot be inferred: write a factory that returns "
            "(model, example)"
        )
    example: dict[str, Any] = {main: makers[main]()}
    if hasattr(config, "vision_config") and "pixel_values" in accepted:
        example["pixel_values"] = makers["pixel_values"]()
    if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in accepted:
        example["decoder_input_ids"] = ids
    name = type(model).__name__
    if "labels" in accepted and name.endswith(
        ("LMHeadModel", "ForCausalLM", "ForMaskedLM", "ForConditionalGeneration")
    ):
        example["labels"] = ids
    elif "labels" in accepted and name.endswith("Classification") and "Token" not in name:
        example["labels"] = torch.zeros(_BATCH, dtype=torch.long)
    # What is cached would count as output, unless there is a loss; without numbers, masks want a cache.
    if "use_cache" in accepted and not ("labels" in example and next(model.parameters()).is_meta):
        example["use_cache"] = False
    return example


def _sides(config: Any) -> tuple[int, int]:
    size = getattr(config, "image_size", 224)
    return (size, size) if isinstance(size, int) else tuple(size)
