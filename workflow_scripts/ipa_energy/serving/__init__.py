"""The serving engine: stage queues, dynamic batching, replica processes and workloads on one host."""
