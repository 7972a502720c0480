"""The Apache Beam pipeline and the `ge2e` program: thin adapters around `ge2e_transforms`.

It must not know audio or tensors: what decodes, computes and reads batches is all there.
"""
