"""Check that a data set is what its manifest claims: make it again from the source and compare image by image."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from dataset_utils.building import SKIPPED, Made, Plan, make_images, make_manifest
from dataset_utils.manifest import Manifest
from dataset_utils.rules import RULES
from dataset_utils.sources import Reading, Source
from dataset_utils.sources.base import shown
from dnnlib.util import UserError


def verify(dataset: Source, sources: Sequence[Source]) -> list[str]:
    """Compare a data set with what the rule in its manifest makes of the sources, with a bar on stderr.

    Returns a sentence for each difference. Raises UserError if there is no manifest, or if its rule cannot be applied
    to these sources.
    """
    manifest = dataset.manifest
    if manifest is None:
        raise UserError(f'{dataset.where} has no manifest.json, so it cannot be verified; remove `verify`')
    names = _listed(manifest.source)
    if len(names) != len(sources):
        raise UserError(f'`verify` must be given {len(names)} times: for {", ".join(map(shown, names))}')
    try:
        return _compare(dataset, manifest, _plan_again(manifest, sources))
    except UserError as error:
        raise UserError(f'{dataset.where} cannot be made again from these sources: {error}') from error
    except Exception as error:  # a stranger's manifest can have any values
        reason = shown(repr(error))
        raise UserError(
            f'{dataset.where}: its manifest is not one that this version understands ({reason}); make it again'
        ) from error


def _plan_again(manifest: Manifest, sources: Sequence[Source]) -> Plan:
    recorded = (SKIPPED, *(field.name for field in dataclasses.fields(Reading)))  # not arguments of rules
    arguments = {name: value for name, value in manifest.arguments.items() if name not in recorded}
    return RULES[manifest.rule](*sources, **arguments)


def _compare(dataset: Source, manifest: Manifest, plan: Plan) -> list[str]:
    kept: list[Made] = []
    skipped: list[Made] = []
    differing: list[int] = []
    for made in tqdm(make_images(plan), f'Verifying {dataset.file_name}', len(dataset), unit='img', disable=None):
        if made.image is None:
            skipped.append(made)
            continue
        if len(kept) < len(dataset) and not _is_same(dataset[len(kept)], made.image, made.label):
            differing.append(len(kept))
        kept.append(dataclasses.replace(made, image=None))
    findings = _compare_manifests(manifest, make_manifest(plan, kept, skipped))
    if len(kept) != len(dataset):
        findings.append(f'It has {len(dataset)} images, but the rule makes {len(kept)}.')
    if differing:
        findings.append(
            f'{len(differing)} of {len(dataset)} images or labels differ from what the rule makes; the first is '
            f'{dataset.describe(differing[0])}.'
        )
    return findings


def _is_same(present: tuple[np.ndarray, int | None], image: np.ndarray, label: int | None) -> bool:
    return present[1] == label and np.array_equal(present[0], image)


def _compare_manifests(claimed: Manifest, made: Manifest) -> list[str]:
    findings = []
    if claimed.source_sha256 != made.source_sha256:
        findings.append(_source_sentence(_listed(claimed.source_sha256), _listed(made.source_sha256)))
    expected = json.loads(made.to_json())
    for name in ('arguments', 'indices', 'labels', 'class_names', 'version'):
        if _differs(getattr(claimed, name), expected[name]):
            findings.append(f'"{name}" in the manifest is not what the rule makes.')
    return findings


def _source_sentence(claimed: list[str], made: list[str]) -> str:
    if claimed == made[::-1]:
        return 'The two sources are those of the manifest in the other order; give `verify` the source first.'
    return f'The source is a different one: its hash is {" and ".join(made)}, not {shown(" and ".join(claimed))}.'


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def _differs(claimed: Any, expected: Any) -> bool:
    return json.dumps(claimed, sort_keys=True) != json.dumps(expected, sort_keys=True)
