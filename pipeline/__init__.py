"""The Apache Beam pipeline and the `ge2e` program: thin adapters around `ge2e_transforms`."""
