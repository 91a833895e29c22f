-- Run once, when the PostgreSQL volume is new: beside `espalier`, the service's own, MLflow has one.
CREATE DATABASE mlflow;
