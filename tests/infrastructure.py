"""What tests of terraform/ share: terraform itself with the provider plugin that lies on this machine, and the folder that
`make package` would make, of the binaries that this machine can run."""

import json
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from conftest import BINARY, ROOT, environment

TERRAFORM = ROOT / "terraform"
FUNCTIONS = ("stream", "transform", "notify")
ERASURE_KEY = "07" * 32
# hostname/namespace/type/version/platform/file: how far a mirror's root lies above the plugin.
MIRROR_PARTS = 6
# Where people put mirrors; the whole disk is looked through only if none of them has one.
PLACES = ("/opt", "/usr/local", "/usr/share", str(Path.home() / ".terraform.d"))


def plugin():
    """The newest provider plugin on this machine, or None. A plugin lies where a mirror has it."""
    named = [place for place in os.environ.get("ANABRANCH_TERRAFORM_PLUGINS", "").split(os.pathsep) if place]
    for places in [named or PLACES, () if named else ("/",)]:
        found = []
        for place in filter(os.path.isdir, places):
            command = ["find", place, "-xdev", "-name", "terraform-provider-aws_v*", "-type", "f"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
            found += [Path(line) for line in done.stdout.splitlines()]
        mirrored = [path for path in found if path.parts[-5:-3] == ("hashicorp", "aws")]
        if mirrored:
            return max(mirrored, key=lambda path: [int(part) for part in path.parent.parent.name.split(".")])
    return None


class Terraform:
    """Terraform in a folder of its own: nothing of a run stays in the tree."""

    def __init__(self, folder, mirror):
        self.folder = folder
        self.configuration = folder / "cli.tfrc"
        self.configuration.write_text(
            f'provider_installation {{\n  filesystem_mirror {{\n    path = "{mirror}"\n  }}\n}}\n'
        )

    def run(self, root, *arguments, check=True, timeout=300, **variables):
        """Runs a command in the configuration `root`."""
        env = environment(**{
            "TF_CLI_CONFIG_FILE": str(self.configuration), "CHECKPOINT_DISABLE": "1", "TF_IN_AUTOMATION": "1", "TF_INPUT": "0",
            "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true", **variables,
        })
        done = subprocess.run(
            ["terraform", *arguments], cwd=root, env=env, capture_output=True, text=True, timeout=timeout, check=False
        )
        if check and done.returncode != 0:
            pytest.fail(f"terraform {' '.join(arguments)}: {done.returncode}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}")
        return done

    def copy(self, source=TERRAFORM):
        """A copy of a configuration, with its provider in place."""
        root = self.folder / source.name
        if not root.exists():
            ignored = shutil.ignore_patterns(".terraform", ".terraform.lock.hcl", "*.tfstate*")
            shutil.copytree(source, root, ignore=ignored)
            # The settings of this tree's tests, beside the configuration as they are here.
            self.run(root, "init", "-backend=false", "-no-color")
        return root


@pytest.fixture(scope="session")
def terraform(tmp_path_factory):
    if shutil.which("terraform") is None:
        pytest.skip("terraform is not on PATH")
    found = plugin()
    if found is None:
        pytest.skip("the AWS provider's plugin is not on this machine")
    return Terraform(tmp_path_factory.mktemp("terraform"), Path(*found.parts[:-MIRROR_PARTS]))


def write_zip(path, binary):
    """A zip that Lambda takes, of a program of this machine."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        entry = zipfile.ZipInfo("bootstrap")
        entry.external_attr = 0o755 << 16
        entry.compress_type = zipfile.ZIP_DEFLATED
        archive.writestr(entry, binary.read_bytes(), compresslevel=1)


def wheel():
    """The wheel that was built last, or None."""
    folders = [ROOT / "target" / "wheels", BINARY.parent.parent / "wheels"]
    wheels = [path for folder in folders for path in folder.glob("anabranch-*.whl")]
    return max(wheels, key=lambda path: path.stat().st_mtime, default=None)


def outputs(done):
    """The values of `terraform output -json`."""
    return {name: output["value"] for name, output in json.loads(done.stdout).items()}
