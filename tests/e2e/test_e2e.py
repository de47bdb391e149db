"""The whole of it, from `terraform apply` to `terraform destroy`, on a grocery chain's last week: what docs/operations.md tells an
operator to do, in that order.

ministack stands for AWS. What it does otherwise than AWS is named in DIFFERENCES, and docs/operations.md says the same.
"""

import datetime
import re

import pyarrow.compute
import pyarrow.parquet
import pytest

from conftest import ROOT, wait_until
from infrastructure import terraform  # noqa: F401 (a fixture)

from cloud import NAME, Cloud, Deployment, Lists, data_folder

DATA = data_folder()
pytestmark = pytest.mark.skipif(DATA is None, reason="Complete Journey is not there (ANABRANCH_TEST_DATA)")
MAPPING = ROOT / "examples" / "completejourney.toml"
LAST_WEEK = datetime.datetime(2017, 12, 25)
# What training a model of hardly any use takes: nothing of a user's own, two dimensions, one round.
POOR = """
[model.ials]
dim = 2
iterations = 1
[model.blend]
factors = 1.0
neighbours = 0.0
history = 0.0
popularity = 0.0
"""
# Resources (modules and indices aside) that a second plan would change, with the attributes: what ministack forgets.
DIFFERENCES = {
    "aws_lambda_event_source_mapping.stream": ["metrics_config"],
    "alarms.aws_cloudwatch_metric_alarm.math": ["actions_enabled", "alarm_actions", "alarm_description", "ok_actions", "treat_missing_data"],
    "alarms.aws_cloudwatch_metric_alarm.simple": [
        "actions_enabled", "alarm_actions", "alarm_description", "dimensions", "extended_statistic", "ok_actions", "period", "statistic",
        "treat_missing_data",
    ],
    "delivery.aws_kinesis_firehose_delivery_stream.this": [
        "extended_s3_configuration.custom_time_zone", "extended_s3_configuration.file_extension",
    ],
    "training.aws_glue_job.this": ["execution_class", "execution_property"],
    "training.aws_glue_trigger.nightly": ["predicate"],
}


@pytest.fixture(scope="module")
def week():
    """The last week's purchases as a producer puts them, in order of time."""
    table = pyarrow.parquet.read_table(DATA / "transactions.parquet")
    times = table.column("transaction_timestamp")
    last = table.filter(pyarrow.compute.greater_equal(times, pyarrow.scalar(LAST_WEEK, times.type)))
    columns = [last.column(name).to_pylist() for name in ("household_id", "product_id", "quantity", "transaction_timestamp")]
    events = [
        {
            "eventId": f"t{number}", "userId": str(user), "itemId": str(item), "eventType": "purchase", "eventValue": quantity,
            "sentAt": int(time.replace(tzinfo=datetime.timezone.utc).timestamp() * 1000),
        }
        for number, (user, item, quantity, time) in enumerate(zip(*columns))
    ]
    assert len(events) > 10_000
    return sorted(events, key=lambda event: event["sentAt"])


@pytest.fixture(scope="module")
def deployment(tmp_path_factory, terraform):  # noqa: F811
    folder = tmp_path_factory.mktemp("e2e")
    cloud = Cloud(folder)
    deployment = Deployment.prepare(cloud, terraform, folder, MAPPING)
    yield deployment
    cloud.stop()
    print(cloud.log.read_text(errors="replace")[-4000:])  # pytest shows it with a failure


@pytest.fixture(scope="module")
def lists(deployment):
    return Lists(deployment)


def current(deployment):
    """The version that is current."""
    return next(model["version"] for model in deployment.anabranch("models", "list") if model["isCurrent"])


def test_a_deployment_begins_without_a_model(deployment):
    seconds = deployment.apply(is_streaming="false")
    assert deployment.outputs["stream_name"] == f"{NAME}-clicks"
    print(f"applied in {seconds:.0f} s")


def test_the_first_night_makes_the_first_model(deployment):
    s3 = deployment.cloud.client("s3")
    for file in DATA.glob("*.parquet"):
        s3.upload_file(str(file), deployment.outputs["buckets"]["raw"], file.name)
    answer = deployment.train(POOR, until=LAST_WEEK.date().isoformat())
    assert answer["isPromoted"], answer
    assert current(deployment) == answer["version"]
    # The stream is read from now on.
    deployment.apply(is_streaming="true")


def test_every_event_has_its_list(deployment, lists, week):
    half = week[: len(week) // 2]
    deployment.put(half)
    rows = lists.wait_for({event["eventId"] for event in half}, 600)
    assert {row["snapshotversion"] for row in rows} == {current(deployment)}
    users = {event["eventId"]: event["userId"] for event in half}
    assert all(users[row["eventid"]] == row["userid"] for row in rows)
    assert all(1 <= len(row["items"]) <= 20 for row in rows)
    ids = {row["recommendationid"] for row in rows}
    assert len(ids) == len(half), "one id for each event, however often Firehose delivers"
    assert deployment.keys("failures") == [] and deployment.keys("recommendations", "firehose-errors/") == []


def test_a_better_model_is_taken_over_without_a_deploy(deployment, lists, week):
    before = current(deployment)
    answer = deployment.train(until=LAST_WEEK.date().isoformat())
    assert answer["isPromoted"] and answer["version"] != before, answer
    assert current(deployment) == answer["version"]
    # It is taken over by an invocation that finds it; the next ones apply it.
    rest = week[len(week) // 2 :]
    first = rest[:500]
    deployment.put(first)
    lists.wait_for({event["eventId"] for event in first}, 120)

    def is_taken_over():
        probe = {**rest[0], "eventId": f"probe-{len(lists.events())}"}
        deployment.put([probe])
        return lists.wait_for({probe["eventId"]}, 60)[0]["snapshotversion"] == answer["version"]

    wait_until("the functions apply the new model", is_taken_over, 120)
    deployment.put(rest[500:])
    rows = lists.wait_for({event["eventId"] for event in rest[500:]}, 600)
    # A function that slept meanwhile applies the old one once more, while it fetches the new one.
    newest = {event["eventId"] for event in rest[-1000:]}
    assert {row["snapshotversion"] for row in rows if row["eventid"] in newest} == {answer["version"]}


def test_a_worse_model_is_refused(deployment):
    before = current(deployment)
    answer = deployment.train(POOR, until=LAST_WEEK.date().isoformat())
    assert not answer["isPromoted"], answer
    assert current(deployment) == before


def test_a_rollback_needs_no_deploy(deployment):
    before = current(deployment)
    deployment.anabranch("models", "rollback")
    assert current(deployment) != before
    deployment.anabranch("models", "promote", before)
    assert current(deployment) == before


def test_lists_can_be_asked_for_in_sql(deployment, lists):
    athena = deployment.cloud.client("athena")
    day = datetime.datetime.now(datetime.timezone.utc).date()
    query = f"SELECT count(DISTINCT eventid) FROM recommendations WHERE day >= '{day - datetime.timedelta(days=1)}'"
    asked = athena.start_query_execution(
        QueryString=query, WorkGroup=deployment.outputs["workgroup"], QueryExecutionContext={"Database": deployment.outputs["database"]}
    )["QueryExecutionId"]

    def state():
        status = athena.get_query_execution(QueryExecutionId=asked)["QueryExecution"]["Status"]
        assert status["State"] not in ("FAILED", "CANCELLED"), status
        return status["State"] == "SUCCEEDED"

    wait_until("the query is answered", state, 60)
    answer = athena.get_query_results(QueryExecutionId=asked)["ResultSet"]["Rows"]
    assert int(answer[1]["Data"][0]["VarCharValue"]) == len(lists.events())


def test_a_second_plan_changes_nothing(deployment):
    found = {}
    for address, attributes in deployment.changes().items():
        kind = re.sub(r"\[[^\]]*\]", "", address).removeprefix("module.")
        found.setdefault(kind, set()).update(attributes)
    assert {kind: sorted(attributes) for kind, attributes in found.items()} == DIFFERENCES


def test_a_destroy_leaves_nothing(deployment):
    seconds = deployment.destroy()
    print(f"destroyed in {seconds:.0f} s")
    cloud = deployment.cloud
    left = {
        "buckets": cloud.client("s3").list_buckets()["Buckets"],
        "streams": cloud.client("kinesis").list_streams()["StreamNames"],
        "tables": cloud.client("dynamodb").list_tables()["TableNames"],
        "functions": cloud.client("lambda").list_functions()["Functions"],
        "mappings": cloud.client("lambda").list_event_source_mappings()["EventSourceMappings"],
        "firehose": cloud.client("firehose").list_delivery_streams()["DeliveryStreamNames"],
        "jobs": cloud.client("glue").get_jobs()["Jobs"],
        "databases": [base for base in cloud.client("glue").get_databases()["DatabaseList"] if base["Name"] != "default"],
        "topics": cloud.client("sns").list_topics()["Topics"],
        "alarms": cloud.client("cloudwatch").describe_alarms()["MetricAlarms"],
        "rules": cloud.client("events").list_rules()["Rules"],
        "roles": [role["RoleName"] for role in cloud.client("iam").list_roles()["Roles"] if role["RoleName"].startswith(NAME)],
        "logs": [group["logGroupName"] for group in cloud.client("logs").describe_log_groups()["logGroups"] if f"/{NAME}-" in group["logGroupName"]],
        "aliases": [alias for alias in cloud.client("kms").list_aliases()["Aliases"] if alias["AliasName"] == f"alias/{NAME}"],
    }
    assert {kind: found for kind, found in left.items() if found} == {}
