"""Labels of a prefilled folder mean what those of the data mean, or nothing is trained."""

from __future__ import annotations

import pytest
from images import write_image_folder

from drb.prefill import main as prefill
from drb.train import main as train


@pytest.mark.parametrize(("base", "new"), [("digits", "pictures"), ("pictures", "digits"), ("pictures", "others")])
def test_classes_that_are_numbered_otherwise_or_have_names_on_one_side_alone_are_refused(tmp_path, base, new, capsys):
    for name in ("pictures", "others"):
        write_image_folder(tmp_path / name)
    for split in ("train", "val"):
        (tmp_path / "others" / split / "class0").rename(tmp_path / "others" / split / "class2")
    folders = {
        name: ["dataset=image_folder", f"dataset.root={tmp_path / name}", "dataset.image_size=8"]
        for name in ("pictures", "others")
    }
    data = {"digits": ["dataset=digits"], **folders}
    assert prefill([str(tmp_path / "base"), *data[base]]) == 0
    settings = ["experiment=none", "model=mlp", "tracking=none", f"hydra.run.dir={tmp_path / 'run'}", "device=cpu"]
    assert train([*data[new], *settings, f"rehearsal.prefilled={tmp_path / 'base'}"]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert (
        "has names of classes and" in said if "digits" in (base, new) else "numbers its classes class0, class1" in said
    )
