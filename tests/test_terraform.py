"""terraform/ without an account: it is formatted and valid, its tests pass with what AWS would answer, every argument is one of
the newest provider's, nothing that auditors flag is left without a reason, and what it says of the code is so.

What AWS itself makes of it is tests/e2e's.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import hcl2
import pytest

from conftest import BINARY, ROOT, environment
from infrastructure import ERASURE_KEY, FUNCTIONS, TERRAFORM, terraform  # noqa: F401 (a fixture)

ROOTS = [TERRAFORM, TERRAFORM / "vectors-s3", TERRAFORM / "vectors-aurora"]
TOOLS = Path(os.environ.get("ANABRANCH_TOOLS", ROOT.parent / "shared" / "tools"))
CHECKOV = Path(sys.prefix) / "checkov" / "bin" / "checkov"
OPERATIONS = ROOT / "docs" / "operations.md"
# Resources that the extracted schema of the newest provider leaves out; `terraform validate` checks them against an older one.
NOT_IN_SCHEMA = {
    "aws_budgets_budget", "aws_cloudwatch_log_stream", "aws_db_subnet_group", "aws_default_security_group", "aws_flow_log",
    "aws_glue_connection", "aws_glue_security_configuration", "aws_lambda_function_event_invoke_config", "aws_rds_cluster",
    "aws_rds_cluster_instance", "aws_rds_cluster_parameter_group", "aws_route_table", "aws_route_table_association",
    "aws_security_group", "aws_subnet", "aws_vpc", "aws_vpc_endpoint", "aws_vpc_security_group_egress_rule",
    "aws_vpc_security_group_ingress_rule",
}
# Who uses a permission, where it is no file of this tree.
SERVICES = ("Firehose itself", "Glue", "Lambda", "The event source mapping", "The VPC itself", "The same", "awsglue's", "The secret is")


def sources(*folders):
    """Every file of the configurations, tests aside."""
    found = [path for folder in folders or [TERRAFORM] for path in sorted(folder.rglob("*.tf")) if ".terraform" not in path.parts]
    assert found
    return found


def unquoted(value):
    return value.strip('"') if isinstance(value, str) else value


@pytest.fixture(scope="session")
def package(tmp_path_factory):
    """What `make package` makes, by name: only names and bytes count here, so the bytes are short ones."""
    folder = tmp_path_factory.mktemp("package")
    (folder / "x86_64").mkdir()
    for name in FUNCTIONS:
        (folder / "x86_64" / f"{name}.zip").write_bytes(name.encode())
    (folder / "glue_job.py").write_text("import anabranch\n")
    (folder / "anabranch-0.1.0-cp311-abi3-manylinux_2_28_x86_64.whl").write_bytes(b"wheel")
    return folder


def test_it_is_formatted(terraform):  # noqa: F811
    done = terraform.run(TERRAFORM, "fmt", "-check", "-recursive", "-no-color", check=False)
    assert done.returncode == 0, f"terraform fmt -recursive terraform\n{done.stdout}"


def test_it_is_valid(terraform):  # noqa: F811
    root = terraform.copy()
    answer = json.loads(terraform.run(root, "validate", "-json").stdout)
    assert answer["valid"] and answer["diagnostics"] == [], answer["diagnostics"]


def test_the_database_is_valid(terraform):  # noqa: F811
    root = terraform.copy(TERRAFORM / "vectors-aurora")
    answer = json.loads(terraform.run(root, "validate", "-json").stdout)
    assert answer["valid"] and answer["diagnostics"] == [], answer["diagnostics"]


def test_s3_vectors_are_valid_where_the_provider_knows_them(terraform):  # noqa: F811
    root = terraform.folder / "s3"
    subprocess.run(["cp", "-r", TERRAFORM / "vectors-s3", root], check=True)
    done = terraform.run(root, "init", "-backend=false", "-no-color", check=False)
    if done.returncode != 0:
        assert "no available releases match" in done.stderr + done.stdout, done.stderr
        pytest.skip("the provider on this machine is older than S3 Vectors; its arguments are checked against the schema of 6.62")
    answer = json.loads(terraform.run(root, "validate", "-json").stdout)
    assert answer["valid"], answer["diagnostics"]


def test_its_own_tests_pass(terraform, package):  # noqa: F811
    done = terraform.run(terraform.copy(), "test", "-no-color", check=False, timeout=600, TF_VAR_package_folder=str(package))
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-8000:]
    assert re.search(r"Success! \d+ passed, 0 failed\.", done.stdout), done.stdout[-2000:]


def test_the_databases_tests_pass(terraform):  # noqa: F811
    root = terraform.copy(TERRAFORM / "vectors-aurora")
    done = terraform.run(root, "test", "-no-color", check=False, timeout=600)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-8000:]


def test_every_argument_is_the_newest_providers():
    schema = sorted(TOOLS.glob("aws-provider-*-schema.json"))
    if not schema or not (TOOLS / "tfcheck.py").is_file():
        pytest.skip(f"tfcheck.py and the provider's schema are not in {TOOLS} (ANABRANCH_TOOLS)")
    done = subprocess.run(
        [sys.executable, TOOLS / "tfcheck.py", schema[-1], *sources()], capture_output=True, text=True, check=False
    )
    errors = [line for line in done.stdout.splitlines() if line.startswith("ERROR")]
    checked = re.search(r"(\d+) resources checked", done.stdout)
    assert checked and int(checked[1]) >= 40, done.stdout + done.stderr
    unknown = [re.search(r": (aws_\w+)\.\w+: no such resource in schema", line) for line in errors]
    assert [line for line, match in zip(errors, unknown) if not match or match[1] not in NOT_IN_SCHEMA] == []
    assert {match[1] for match in unknown if match} == NOT_IN_SCHEMA, "a name in NOT_IN_SCHEMA that nothing uses"


def test_auditors_find_nothing():
    if not CHECKOV.is_file():
        pytest.skip(f"checkov is not installed ({CHECKOV}): `make test` installs it")
    command = [CHECKOV, "--directory", TERRAFORM, "--framework", "terraform", "--skip-download", "--output", "json"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, check=False,
        env=environment(LOG_LEVEL="ERROR"),
    )
    answer = json.loads(done.stdout)
    summary, results = answer["summary"], answer["results"]
    failed = [f"{check['check_id']} {check['file_path']} {check['resource']}: {check['check_name']}" for check in results["failed_checks"]]
    assert failed == [] and summary["parsing_errors"] == 0, "\n".join(failed)
    assert summary["passed"] > 200
    # A suppression says why.
    for check in results["skipped_checks"]:
        assert len(check["check_result"]["suppress_comment"]) > 20, check["check_id"]


def test_variables_and_outputs_say_what_they_are():
    for path in sources():
        tree = hcl2.loads(path.read_text())
        for kind in ("variable", "output"):
            for entry in tree.get(kind, []):
                for name, body in entry.items():
                    said = unquoted(body.get("description", ""))
                    assert len(said) > 10 and said.endswith("."), f"{path}: {kind} {name} has no description"
                    assert kind == "output" or "type" in body, f"{path}: variable {name} has no type"


def test_roots_validate_their_variables():
    """Lists of names from other configurations and booleans have nothing to check."""
    for root in ROOTS:
        for entry in hcl2.loads((root / "variables.tf").read_text())["variable"]:
            for name, body in entry.items():
                kind = unquoted(body["type"]).strip("${}")
                free = kind == "bool" or unquoted(name) in ("glue_connections", "training_policy_arns")
                assert free or "validation" in body, f"{root.name}: variable {name} takes anything"


def test_no_permission_has_a_wildcard_for_its_action():
    for path in sources():
        text = path.read_text()
        for found in re.finditer(r'\b[aA]ctions?\s*=\s*(\[[^\]]*\]|"[^"]*")', text):
            for action in re.findall(r'"([^"]+)"', found[1]):
                if re.fullmatch(r"[a-z0-9-]+:[A-Za-z*]+", action) and "*" in action:
                    before = text[: found.start()]
                    assert re.search(r'Effect\s*=\s*"Deny"[^{}]*$', before), f"{path}: {action}"


def test_every_permission_names_the_code_that_needs_it():
    """A comment before the statement: files that are there, or the service that acts with the role."""
    statement = re.compile(r"((?:^ *#[^\n]*\n)*)^ *(?:\w+ = )?\{\n(?: *Sid[^\n]*\n)?((?:^ *#[^\n]*\n)*)(?:^ *\w+ *=[^\n]*\n)*?^ *[aA]ctions? *=", re.MULTILINE)
    seen = 0
    for path in sources():
        text = path.read_text()
        if "sts:AssumeRole" not in text and "statements" not in text and path.parent.name != "vectors-s3":
            continue
        for found in statement.finditer(text):
            if "sts:AssumeRole" in text[found.end() : found.end() + 40] or "Principal" in found[0]:
                continue
            why = (found[1] + found[2]).replace("#", "").strip()
            assert why, f"{path}: nobody says who needs\n{found[0]}"
            seen += 1
            named = re.findall(r"\b(?:[a-z0-9]+/)+[a-z0-9_]+(?:\.rs|\.py)?", why)
            for name in named:
                places = [ROOT / name, ROOT / "crates" / name, ROOT / "lambda" / name]
                assert any(place.exists() for place in places), f"{path}: there is no {name}"
            assert named or why.startswith(SERVICES), f"{path}: {why!r} names no code and no service"
    assert seen > 30


def names_set():
    """The settings that the configuration sets, by the file that sets them."""
    pattern = re.compile(r"\b(ANABRANCH__[A-Z0-9_]+)\b")
    found = {(name, path.name) for path in sources() for name in pattern.findall(path.read_text())}
    assert len(found) > 20
    return sorted(found)


def test_every_setting_is_known_to_the_programs():
    """A variable that no program knows would keep a function from starting."""
    unknown = []
    for name, file in names_set():
        programs = [[BINARY, "settings"]] if file == "outputs.tf" else [[BINARY.parent / "stream"]]
        for program in programs:
            done = subprocess.run(program, env=environment(**{name: "1"}), capture_output=True, text=True, timeout=60, check=False)
            if "unknown field" in done.stdout + done.stderr:
                unknown.append((name, file, str(program[0])))
    assert unknown == []
    # The same call does tell.
    done = subprocess.run(
        [BINARY.parent / "stream"], env=environment(ANABRANCH__LAMBDA__TABEL="1"), capture_output=True, text=True, timeout=60, check=False
    )
    assert "unknown field" in done.stdout + done.stderr


def test_every_metric_of_ours_is_one_that_the_functions_write():
    written = set(re.findall(r'"((?:Batch|Events|Lists|Records|Latency|Snapshot|Iterator|Notifications)\w+)"', (ROOT / "lambda/src/report.rs").read_text()))
    assert "EventsIn" in written
    watched = set()
    for path in sources(TERRAFORM / "modules" / "alarms"):
        text = path.read_text()
        watched |= set(re.findall(r'local\.namespace, "(\w+)"', text))
        for group in re.findall(r"sums\s*=\s*\[([^\]]*)\]", text) + re.findall(r"for name in \[([^\]]*)\] :\s*\n?\s*concat\(\[local", text):
            watched |= set(re.findall(r'"(\w+)"', group))
    assert len(watched) > 15
    assert watched - written == set()
    report = (ROOT / "lambda/src/report.rs").read_text()
    assert '("Stream", stream)' in report, "the dimension of the alarms is the one of the lines"


def alarm_names():
    text = (TERRAFORM / "modules" / "alarms" / "main.tf").read_text()
    names = set(re.findall(r"^ {6}([a-z][a-z-]*) = (?:merge\(local\.\w+, )?\{$", text, re.MULTILINE))
    names |= {f"NAME-{suffix}" for suffix in re.findall(r'"\$\{name\}-([a-z-]+)"', text)}
    assert "lag" in names and "NAME-errors" in names
    return names


def test_every_alarm_has_its_row():
    section = OPERATIONS.read_text().partition("\n## Alarms\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([A-Za-z-]+)`", section, re.MULTILINE)
    assert sorted(rows) == sorted(alarm_names()), "docs/operations.md, Alarms"


def test_the_tables_columns_are_the_formats():
    text = (TERRAFORM / "modules" / "catalogue" / "main.tf").read_text()
    columns = dict(re.findall(r'\["(\w+)", ("[^"]+"|local\.time_type), "', text))
    schema = (ROOT / "crates/stream/src/object/parquet.rs").read_text()
    fields = re.findall(r"^    (?:required|optional) (?:binary|int64|group) (\w+)", schema, re.MULTILINE)
    assert [name.lower() for name in fields] == [name for name in columns if "_" not in name][: len(fields)]
    days = (ROOT / "crates/batch/src/etl/days.rs").read_text()
    names = re.findall(r"(?:required|optional) (?:binary|float|int64) (\w+)", days)
    assert names == [name for name in columns if "_" in name]


def test_the_default_package_is_where_make_puts_it():
    for entry in hcl2.loads((TERRAFORM / "variables.tf").read_text())["variable"]:
        for name, body in entry.items():
            if unquoted(name) == "package_folder":
                default = unquoted(body["default"])
    assert (TERRAFORM / default).resolve() == ROOT / "target" / "package"
    assert "package:" in (ROOT / "Makefile").read_text()


def test_secrets_are_marked():
    for root in ROOTS:
        for entry in hcl2.loads((root / "variables.tf").read_text())["variable"]:
            for name, body in entry.items():
                if unquoted(name) in ("erasure_key", "webhook_secret"):
                    assert body.get("sensitive") is True, name
    assert ERASURE_KEY not in "".join(path.read_text() for path in sources())
