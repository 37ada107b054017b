"""A real Kubernetes API for tests: etcd and kube-apiserver as processes, what stands in their way, what they recorded.

`apiserver` starts them, `api` speaks to them, `proxy` injects faults between them and a client, `audit` reads what a
client did. `binaries` finds or builds the programs.
"""
