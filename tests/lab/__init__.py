"""The laboratory: servers, clients and attack tools in network namespaces, captured on the wire, labelled by construction."""
