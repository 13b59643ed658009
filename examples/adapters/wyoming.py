"""Home Assistant's voice assistants ask a PALM server: an intent recognizer of the Wyoming protocol.

    pip install wyoming
    python examples/adapters/wyoming.py [--uri tcp://127.0.0.1:10500] [--target 127.0.0.1:50051] [--language en]

Add the integration "Wyoming Protocol" with this host and port, and choose it as the conversation agent of an assistant.
Home Assistant acts on intents that it knows: the model's intents are named `HassTurnOn`, `HassLightSet`, ..., or in
`intent_script`. Slots become entities of the same name. A fallback of the model becomes "not recognized".

Source: home-assistant/core, components/wyoming/conversation.py; the package `wyoming`.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# This file has the name of the package, which Python would look for beside it first.
sys.path.sort(key=str(Path(__file__).resolve().parent).__eq__)

from wyoming.asr import Transcript
from wyoming.error import Error
from wyoming.event import Event
from wyoming.info import Attribution, Describe, Info, IntentModel, IntentProgram
from wyoming.intent import Entity, Intent, NotRecognized, Recognize
from wyoming.server import AsyncEventHandler, AsyncServer

from palm_serve.client import AsyncClient
from palm_serve.errors import InvalidRequest, PalmServeError

TURN_S = 5.0
AUTHOR = Attribution(name="PALM", url="")


class Recognizer(AsyncEventHandler):
    """One connection of Home Assistant.

    Args:
        streams: the reader and the writer of the connection.
        palm: the client of the PALM server, which all connections share.
        languages: languages that the models understand.
    """

    def __init__(self, *streams: Any, palm: AsyncClient, languages: Sequence[str]) -> None:
        super().__init__(*streams)
        self._palm = palm
        self._languages = [*languages]

    async def handle_event(self, event: Event) -> bool:
        """Answer one event. Others than questions are passed over, as the protocol says. Returns true: go on."""
        try:
            if Describe.is_type(event.type):
                await self.write_event(await self._describe())
            elif Transcript.is_type(event.type):
                said = Transcript.from_event(event)
                await self.write_event(await self._recognize(said.text, said.context))
            elif Recognize.is_type(event.type):
                asked = Recognize.from_event(event)
                await self.write_event(await self._recognize(asked.text, asked.context))
        except InvalidRequest as error:
            await self.write_event(NotRecognized(text=str(error)).event())
        except PalmServeError as error:
            await self.write_event(Error(text=str(error), code=type(error).__name__).event())
        return True

    async def _describe(self) -> Event:
        """Return what this server offers: the loaded models."""
        models: list[IntentModel] = []
        for model in await self._palm.models(timeout_s=TURN_S):
            # Wyoming asks for every field.
            facts: dict[str, Any] = {"name": model.name, "version": model.version[:12], "description": None}
            models.append(IntentModel(**facts, attribution=AUTHOR, installed=True, languages=self._languages))
        facts = {"name": "palm", "version": "1", "description": "Intents and slots of a PALM server"}
        program = IntentProgram(**facts, attribution=AUTHOR, installed=True, models=models)
        return Info(intent=[program]).event()

    async def _recognize(self, text: str, context: dict[str, Any] | None) -> Event:
        """Return the intent of a sentence, or that there is none."""
        answer = await self._palm.parse(text, timeout_s=TURN_S)
        if answer.fallback.triggered or not answer.HasField("intent"):
            return NotRecognized(context=context).event()
        entities = [Entity(name=slot.name, value=slot.value) for slot in answer.slots]
        return Intent(name=answer.intent.name, entities=entities, context=context).event()


async def serve(uri: str, target: str, languages: Sequence[str]) -> None:
    """Answer Home Assistant until the process is told to stop.

    Args:
        uri: where to listen, as `tcp://HOST:PORT` or `unix://PATH`.
        target: address of the PALM server.
        languages: languages that its models understand.
    """
    async with AsyncClient(target) as palm:
        server = AsyncServer.from_uri(uri)
        print(f"wyoming: listening on {uri}", flush=True)
        await server.run(lambda *streams: Recognizer(*streams, palm=palm, languages=languages))


def main() -> None:
    """Read the options and serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--uri", default="tcp://127.0.0.1:10500", help="where to listen")
    parser.add_argument("--target", default="127.0.0.1:50051", help="address of the PALM server")
    parser.add_argument("--language", action="append", help="language of the model, such as en; may be repeated")
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.uri, arguments.target, arguments.language or ["en"]))


if __name__ == "__main__":
    main()
