"""A cluster with a real node for end-to-end tests.

`python -m support.node up` (with tests/ on the path) makes one on a Debian machine with root and Go, and no Docker: the
control plane and a kubelet as processes, containers by containerd and runc, CoreDNS, pods on a bridge. Where Docker and
kind exist, kind makes one. `clusters.choose` says which; tests know a kubeconfig, and how to build an image and bring it
to the node, and nothing of who made the cluster.
"""
