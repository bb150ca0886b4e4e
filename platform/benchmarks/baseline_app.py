"""The minimal application that serves a bundle, over RSGI and ASGI.

    BUNDLE=FILE granian --interface rsgi baseline_app:app
    BUNDLE=FILE uvicorn baseline_app:app

It accepts the same body as tidemill and uses the same single-row call of the same booster. It
validates nothing, has no metrics, returns no model version and never swaps its model.
"""

import os
from pathlib import Path
from typing import Any

import msgspec

from tidemill.core import canonical
from tidemill.core.bundle import Model
from tidemill.serving.predictor import single_row_predictor

_JSON_HEADERS = [("content-type", "application/json")]
_CONTENT_TYPE = (b"content-type", b"application/json")
_decode, _encode = msgspec.json.Decoder().decode, msgspec.json.Encoder().encode


class BaselineApp:
    """Responds to any path with the prediction for one row."""

    def __init__(self, bundle: bytes) -> None:
        model = Model.load(bundle, canonical.digest(bundle), None)
        self._booster = model.booster
        self._predict = single_row_predictor(model.booster)
        self._columns = [
            (column.name, _category_codes(model.vocabulary.values.get(column.name)))
            for column in model.header.columns
        ]

    async def __rsgi__(self, scope: Any, channel: Any) -> None:
        channel.response_bytes(200, _JSON_HEADERS, self._respond(await channel()))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more_body = b"", True
        while more_body:
            message = await receive()
            body, more_body = body + message.get("body", b""), message.get("more_body", False)
        response = self._respond(body)
        length = (b"content-length", b"%d" % len(response))
        headers = [_CONTENT_TYPE, length]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": response})

    def _respond(self, body: bytes) -> bytes:
        row = _decode(body)["rows"][0]
        columns = self._columns
        values = [row[name] if codes is None else codes.get(row[name]) for name, codes in columns]
        return _encode({"predictions": [self._predict(values)]})


def _category_codes(texts: tuple[str, ...] | None) -> dict[str, int] | None:
    return None if texts is None else {text: code for code, text in enumerate(texts)}


app = BaselineApp(Path(os.environ["BUNDLE"]).read_bytes())
