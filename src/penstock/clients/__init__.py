"""For applications: Penstock as a retriever of other frameworks, one module and extra each."""
