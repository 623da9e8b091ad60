"""The only room that imports mlflow, with serve, which loads its models."""
