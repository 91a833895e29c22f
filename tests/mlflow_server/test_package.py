import subprocess
import sys

import mlflow_server


def python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_every_public_name_is_there():
    assert sorted(mlflow_server.__all__, key=str.lower) == sorted(
        set(mlflow_server.__all__), key=str.lower
    )
    for name in mlflow_server.__all__:
        assert getattr(mlflow_server, name) is not None


def test_mlflow_is_imported_only_to_connect():
    code = "import sys, mlflow_server; print('mlflow' in sys.modules, end=' ');"
    code += "mlflow_server.connect; print('mlflow' in sys.modules)"
    assert python(code) == "False True"


def test_telemetry_is_off_unless_chosen():
    code = "import os, mlflow_server; print(os.environ['MLFLOW_DISABLE_TELEMETRY'])"
    assert python(code) == "true"
    assert python(code, MLFLOW_DISABLE_TELEMETRY="false") == "false"


def test_errors_are_one_family():
    for error in (mlflow_server.TrackingError, mlflow_server.ServeError):
        assert issubclass(error, mlflow_server.MlflowServerError)
