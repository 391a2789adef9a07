"""Audits of verifiers and release bundles: reading scores, the report as a page, building, signing, checking.

Public files in, public files out; nobody's device or node is asked. `client.cli` mounts its commands, and no other room
calls it.
"""
