"""A server whose files lie in a bucket: an S3 that runs here."""

import pytest
from s3 import running_s3

from mlflow_server import connect, running_server

boto3 = pytest.importorskip("boto3", reason="boto3 is not installed")

# SQLAlchemy 2.1 deprecates what MLflow 3.17 uses while its tables are first imported.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


@pytest.fixture
def bucket(monkeypatch):
    """A client of an S3 with the bucket `espalier`; MLflow's server is told where it is."""
    with running_s3() as address:
        endpoint = f"http://{address}"
        for name, value in {
            "AWS_ACCESS_KEY_ID": "me",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "MLFLOW_S3_ENDPOINT_URL": endpoint,
        }.items():
            monkeypatch.setenv(name, value)
        client = boto3.client("s3", endpoint_url=endpoint)
        client.create_bucket(Bucket="espalier")
        yield client
        client.close()


def test_a_server_has_no_bucket_of_one_before(bucket):
    bucket.put_object(Bucket="espalier", Key="left", Body=b"here")
    with running_s3() as address:
        client = boto3.client("s3", endpoint_url=f"http://{address}")
        assert client.list_buckets()["Buckets"] == []
        client.close()


def test_files_go_to_a_bucket_and_come_back(bucket, make_store, tmp_path):
    picture = tmp_path / "front.png"
    picture.write_bytes(b"a picture")
    store = make_store("server")
    with running_server(store, port=0, artifacts="s3://espalier/files") as server:
        recorder = connect(server.url, "in a bucket")
        recorder.open_run("search", kind="search", name="in a bucket")
        recorder.log_file("search", picture)
        recorder.end_run("search", "finished")
        recorder.close()
        (stored,) = bucket.list_objects_v2(Bucket="espalier")["Contents"]
        assert stored["Key"].startswith("files/")
        assert stored["Key"].endswith("front.png")
        content = bucket.get_object(Bucket="espalier", Key=stored["Key"])["Body"].read()
        assert content == b"a picture"
        assert recorder.read("search").files == ("front.png",)
    assert not any(path.name == "front.png" for path in store.rglob("*"))
