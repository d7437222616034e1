"""Checks that a data set matches its manifest, by making it again from the source and comparing the images."""

import dataclasses
import json
from collections.abc import Sequence

import numpy as np
from msgspec import UNSET
from tqdm import tqdm

from dataset_utils.building import SKIPPED, Making, Plan
from dataset_utils.manifest import Manifest, listed
from dataset_utils.rules import RULES
from dataset_utils.sources import Reading, Source
from dataset_utils.sources.base import printable
from dnnlib.util import UserError


def verify(dataset: Source, sources: Sequence[Source]) -> list[str]:
    """Compare a data set with the set that the rule in its manifest makes from the sources; shows a progress bar.

    Returns one sentence for each difference. Raises UserError if there is no manifest, or if its rule cannot be applied
    to these sources.
    """
    manifest = dataset.manifest
    if manifest is None:
        raise UserError(f'{dataset.where} has no manifest.json, so it cannot be verified; remove `verify`')
    names = listed(manifest.source)
    if len(names) != len(sources):
        raise UserError(f'give `verify` {len(names)} times, once for each source: {", ".join(map(printable, names))}')
    recorded = (SKIPPED, *(field.name for field in dataclasses.fields(Reading)))  # not arguments of rules
    arguments = {name: value for name, value in manifest.arguments.items() if name not in recorded}
    try:
        return _compare(dataset, manifest, RULES[manifest.rule](*sources, **arguments))
    except UserError as error:
        raise UserError(f'{dataset.where} cannot be made again from these sources: {error}') from error
    except Exception as error:  # an untrusted manifest can contain anything
        reason = printable(repr(error))
        raise UserError(
            f'{dataset.where}: this version does not understand its manifest ({reason}); make the data set again'
        ) from error


def _compare(dataset: Source, manifest: Manifest, plan: Plan) -> list[str]:
    making = Making(plan)
    count, differing = 0, []
    bar = tqdm(making, f'Verifying {dataset.file_name}', len(dataset), unit='img', disable=None)
    for count, (image, label) in enumerate(bar, start=1):
        if count <= len(dataset):
            present, present_label = dataset[count - 1]
            if present_label != label or not np.array_equal(present, image):
                differing.append(count - 1)
    findings = _compare_manifests(manifest, making.manifest())
    if count != len(dataset):
        findings.append(f'The data set has {len(dataset)} images, but the rule in the manifest selects {count}.')
    if differing:
        findings.append(
            f'{len(differing)} of {len(dataset)} images or labels differ from the result of the rule; the first is '
            f'{dataset.describe(differing[0])}.'
        )
    return findings


def _compare_manifests(claimed: Manifest, made: Manifest) -> list[str]:
    findings = []
    hashes, expected = listed(claimed.source_sha256), listed(made.source_sha256)
    if hashes == expected[::-1] != expected:
        findings.append('The two sources were given in the reverse order; give them in the order of the manifest.')
    elif hashes != expected:
        is_not = f'SHA-256 {" and ".join(expected)} instead of {printable(" and ".join(hashes))}'
        names = ' and '.join(map(printable, listed(claimed.source)))
        findings.append(
            f'The source is not the original one: {is_not}. The manifest names {names}; compare with that file.'
        )
    optional = ['original_names'] if claimed.original_names is not UNSET else []  # missing in older manifests
    for name in ('arguments', 'indices', 'labels', 'class_names', 'version', *optional):
        # The values are compared as JSON, because JSON distinguishes 1, 1.0 and true.
        texts = [json.dumps(json.loads(manifest.to_json()).get(name), sort_keys=True) for manifest in (claimed, made)]
        if texts[0] != texts[1]:
            findings.append(f'"{name}" in the manifest differs from the result of its rule.')
    return findings
