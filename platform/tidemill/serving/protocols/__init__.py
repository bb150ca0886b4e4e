"""The protocols of the server: each decodes a body to rows and encodes predictions."""
