"""Mutated messages through every method of every door: each is answered or refused, the server lives, and a neighbour is answered meanwhile.

    python benchmarks/serving/fuzz.py BUNDLE [--messages 20000] [--http 0.25] [--callers 16] [--steady 20] [--seed 0] [--json FILE]

Messages are well-formed requests, made from the golden examples, or random fields of the right types; three of four then have bytes flipped, cut,
inserted, doubled or dropped. A quarter goes through the HTTP door (http_mutations.py). It needs nobody to watch it.

Printed: the status codes, what should not have been (INTERNAL, UNKNOWN, names of the server's files; the messages of the first twenty go to standard
error, and the exit code is 1), the p99 of a neighbour who asks for `Parse` meanwhile, to that beside as many callers with well-formed requests for
`--steady` seconds, and memory, beside that of a grpc.aio service without our code after as many calls. (10^6 messages: --messages 1000000.)
"""

import asyncio
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_channelz.v1 import channelz_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from http_mutations import HttpFuzz
from processes import Door, Process, chosen_texts, finish, options

from palm_serve.oip import inference_pb2 as oip
from palm_serve.system.addresses import NO_PROXY
from palm_serve.v1 import palm_pb2 as pb

METHODS: dict[str, MethodDescriptor] = {
    f"/{service.full_name}/{method.name}": method
    for module in (pb, oip, health_pb2, reflection_pb2, channelz_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
REFUSALS = {
    *("INVALID_ARGUMENT", "NOT_FOUND", "PERMISSION_DENIED", "UNIMPLEMENTED", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED")
}
_PARSE = "/palm_serve.v1.DialogueUnderstanding/Parse"
_INTERNAL = 13
_PATIENCE_S = 10.0
_WATCH_S = 0.02
_PAUSE_S = 0.02
_KEPT = 20
_NUMBERS = (0, 1, 2, 3, 99, -1, 2**31 - 1, -(2**31), 2**32 - 1, 2**40, 2**63 - 1, -(2**63), 2**64 - 1)
_RANGES = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_ENUM: (-(2**31), 2**31 - 1),
}
_REALS = (0.0, -1.0, 0.5, 1e-45, 3e38, float("inf"), float("nan"))
_WORDS = (
    "",
    " ",
    "\x00",
    "a\u0301" * 40,
    "北京 👩‍👩‍👧",
    "x" * 300,
    "../../etc/passwd",
    "%2e%2e",
    "priority",
    "text",
    "BYTES",
)


@dataclass
class Generator:
    """Makes messages. `texts` are the golden ones, `names` what models, tasks and outputs are called."""

    draw: random.Random
    texts: Sequence[str]
    names: Sequence[str]

    def well_formed(self, kind: Descriptor) -> Message | None:
        """A request that the models answer; None where this kind does not ask them."""
        makers: dict[str, Callable[[], Message]] = {
            "palm_serve.v1.ParseRequest": self._parse,
            "palm_serve.v1.ParseBatchRequest": lambda: pb.ParseBatchRequest(requests=[self._parse(), self._parse()]),
            "palm_serve.v1.PredictRequest": lambda: pb.PredictRequest(
                task=self.draw.choice(self.names), text=self._text()
            ),
            "inference.ModelInferRequest": self._infer,
            "inference.ModelStreamInferRequest": self._infer,
        }
        maker = makers.get(kind.full_name)
        return None if maker is None else maker()

    def mutated(self, kind: Descriptor) -> bytes:
        """The bytes of a message, most often broken."""
        seed = self.well_formed(kind) if self.draw.random() < 0.5 else None
        data = bytearray((seed or self.filled(kind)).SerializeToString())
        for _ in range(self.draw.randint(0, 3)):
            self.damage(data)
        return bytes(data)

    def _text(self) -> str:
        return self.draw.choice(self.texts) if self.draw.random() < 0.8 else self.draw.choice(_WORDS)

    def _parse(self) -> Message:
        return pb.ParseRequest(text=self.draw.choice(self.texts))

    def _infer(self) -> Message:
        contents = oip.InferTensorContents(bytes_contents=[self._text().encode() for _ in range(2)])
        tensor = oip.ModelInferRequest.InferInputTensor(name="text", datatype="BYTES", shape=[2], contents=contents)
        return oip.ModelInferRequest(model_name=self.names[0], inputs=[tensor])

    def filled(self, kind: Descriptor, depth: int = 0) -> Message:
        """Return a message with random fields of the right types."""
        message = GetMessageClass(kind)()
        for one in kind.fields:
            if depth > 3 or self.draw.random() < 0.5:
                continue
            if one.message_type is not None and one.message_type.GetOptions().map_entry:
                continue  # a map's bytes are those of a repeated message: `damage` doubles and drops them elsewhere
            if one.is_repeated:
                getattr(message, one.name).extend(self._value(one, depth) for _ in range(self.draw.randint(0, 3)))
            elif one.message_type is not None:
                getattr(message, one.name).CopyFrom(self._value(one, depth))
            else:
                setattr(message, one.name, self._value(one, depth))
        return message

    def _value(self, one: FieldDescriptor, depth: int) -> Any:
        if one.message_type is not None:
            return self.filled(one.message_type, depth + 1)
        if one.type == FieldDescriptor.TYPE_BYTES:
            return self.draw.randbytes(self.draw.randint(0, 40))
        if one.type == FieldDescriptor.TYPE_STRING:
            return self.draw.choice(self.names) if self.draw.random() < 0.5 else self._text()
        if one.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
            return self.draw.random() < 0.5
        if one.cpp_type in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
            return self.draw.choice(_REALS)
        low, high = _RANGES[one.cpp_type]
        return self.draw.choice([number for number in _NUMBERS if low <= number <= high])

    def damage(self, data: bytearray) -> None:
        """Break a message once."""
        place, length = self.draw.randint(0, len(data)), self.draw.randint(1, 8)
        match self.draw.choice(("flip", "cut", "insert", "double", "drop")):
            case "flip" if place < len(data):
                data[place] ^= 1 << self.draw.randrange(8)
            case "cut":
                del data[place:]
            case "insert":
                data[place:place] = self.draw.randbytes(length)
            case "double":
                data += data[place:]
            case "drop":
                del data[place : place + length]


@dataclass
class Fuzz:
    """Callers who send what is made, a neighbour who wants an answer, and what both saw."""

    channel: grpc.aio.Channel
    streams: grpc.Channel
    codes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    faulty: int = 0

    async def beside(self, callers: Sequence[asyncio.Task[None]], text: str) -> list[float]:
        """Seconds that each call of a neighbour took until the last caller has ended."""
        took = []
        request = pb.ParseRequest(text=text).SerializeToString()
        while not all(caller.done() for caller in callers):
            began = time.perf_counter()
            answer = await self.channel.unary_unary(_PARSE)(request, timeout=_PATIENCE_S)
            took.append(time.perf_counter() - began)
            assert pb.ParseResponse.FromString(answer).text == text, answer
            await asyncio.sleep(_PAUSE_S)
        for caller in callers:
            await caller
        return took

    async def send_all(self, path: Iterator[str], make: Callable[[Descriptor], bytes]) -> None:
        """A caller: one message after the other."""
        for one in path:
            kind = METHODS[one].input_type
            messages = [make(kind) for _ in range(2 if METHODS[one].client_streaming else 1)]
            code, details, answers = await self._ask(one, messages)
            self.codes[code] += 1
            if why := fault(one, code, details, answers):
                self.faulty += 1
                if len(self.faults) < _KEPT:
                    self.faults.append(f"{one} {[message.hex() for message in messages]}: {why}")

    async def _ask(self, path: str, messages: list[bytes]) -> tuple[str, str, list[bytes]]:
        method, answers = METHODS[path], list[bytes]()
        try:
            if method.client_streaming:
                # Where a stream is refused while it is written to, grpc.aio's client tells of an error of its own and loses the server's.
                await asyncio.to_thread(self._stream, path, messages, answers)
            elif method.server_streaming:
                async for answer in self.channel.unary_stream(path)(messages[0], timeout=_WATCH_S):
                    answers.append(answer)
            else:
                answers.append(await self.channel.unary_unary(path)(messages[0], timeout=_PATIENCE_S))
        except grpc.RpcError as error:
            return error.code().name, error.details() or "", answers
        return "OK", "", answers

    def _stream(self, path: str, messages: Sequence[bytes], answers: list[bytes]) -> None:
        answers.extend(self.streams.stream_stream(path)(iter(messages), timeout=_PATIENCE_S))


def fault(path: str, code: str, details: str, answers: Sequence[bytes]) -> str:
    """What is wrong with an outcome; empty: nothing."""
    if code not in {"OK", *REFUSALS}:
        return f"{code} {details}"
    if any(word in details for word in ("Traceback", "File ", ".py", "palm_serve/", str(Path.home()))):
        return f"tells of the inside: {details}"
    for answer in answers:
        reply = GetMessageClass(METHODS[path].output_type).FromString(answer)
        items = [reply] if isinstance(reply, pb.ParseItem) else getattr(reply, "items", ())
        if any(item.error.code == _INTERNAL for item in items) or "INTERNAL" in getattr(reply, "error_message", ""):
            return str(reply)
    return ""


async def run(
    server: Door, generator: Generator, messages: int, http: float, callers: int, steady_s: float
) -> tuple[Fuzz, HttpFuzz, list[float], list[float]]:
    """Fuzz both doors.

    Args:
        server: the server.
        generator: makes the messages.
        messages: number of messages.
        http: share of the messages and of the callers that use the HTTP door.
        callers: number of callers.
        steady_s: seconds of well-formed requests before.

    Returns:
        What was seen over gRPC and HTTP, and the neighbour's seconds beside well-formed requests and beside the mutated.
    """
    asking = [path for path, method in METHODS.items() if generator.well_formed(method.input_type) is not None]

    def well_formed(kind: Descriptor) -> bytes:
        message = generator.well_formed(kind)
        assert message is not None
        return message.SerializeToString()

    async with AsyncExitStack() as opened:
        channel = await opened.enter_async_context(grpc.aio.insecure_channel(server.target, options=NO_PROXY))
        streams = opened.enter_context(grpc.insecure_channel(server.target, options=NO_PROXY))
        calm, fuzz = Fuzz(channel, streams), Fuzz(channel, streams)
        end = time.monotonic() + steady_s
        until = iter(lambda: generator.draw.choice(asking) if time.monotonic() < end else "", "")
        steady = await calm.beside(_start(calm, until, well_formed, callers), generator.texts[0])
        over_http = HttpFuzz(server.http_port, generator, METHODS)
        numbers = iter(range(round(http * messages)))
        count = max(1, round(http * callers)) if http else 0
        tasks = [asyncio.create_task(over_http.send_all(numbers)) for _ in range(count)]
        paths = (generator.draw.choice(list(METHODS)) for _ in range(messages - round(http * messages)))
        tasks += _start(fuzz, paths, generator.mutated, max(1, callers - count))
        return fuzz, over_http, steady, await fuzz.beside(tasks, generator.texts[0])


def _start(
    fuzz: Fuzz, paths: Iterator[str], make: Callable[[Descriptor], bytes], callers: int
) -> list[asyncio.Task[None]]:
    return [asyncio.create_task(fuzz.send_all(paths, make)) for _ in range(callers)]


def main() -> None:
    """Prints the table; `--json` also writes it. Exits with 1 after a fault."""
    arguments = options(__doc__, messages=20_000, http=0.25, callers=16, steady=20.0, seed=0).parse_args()
    texts, callers = chosen_texts(arguments), arguments.callers
    with ExitStack() as opened:
        server = opened.enter_context(Door(arguments.bundle, "--provider", arguments.provider, "--channelz"))
        bare = opened.enter_context(Process(Path(__file__).with_name("bare.py")))
        began, before = time.monotonic(), server.usage()
        generator = Generator(random.Random(arguments.seed), texts, _names(server.target))
        fuzz, over_http, steady, beside = asyncio.run(
            run(server, generator, arguments.messages, arguments.http, callers, arguments.steady)
        )
        seconds, after = time.monotonic() - began - arguments.steady, server.usage()
        # As many calls as were made over gRPC: what a service without our code holds after them.
        bare_before = bare.usage()
        count = sum(fuzz.codes.values())
        asyncio.run(_ask_bare(bare.target, generator, count, callers))
        bare_after = bare.usage()
    p99, p99_steady = (statistics.quantiles(took, n=100)[98] for took in (beside, steady))
    codes, faulty = fuzz.codes + over_http.codes, fuzz.faulty + over_http.faulty
    grown, bare_grown = after.memory_mib - before.memory_mib, bare_after.memory_mib - bare_before.memory_mib
    rows = [
        ("messages", f"{arguments.messages:,} through {len(METHODS)} methods and the HTTP door", ""),
        ("  duration, s", f"{seconds:.0f} ({arguments.messages / seconds:,.0f} messages/s)", ""),
        ("outcomes", ", ".join(f"{name} {number:,}" for name, number in codes.most_common()), ""),
        ("faults", f"{faulty:,}", "0"),
        ("neighbour's p99, ms", f"{1000 * p99:.1f}", ""),
        ("  to that beside well-formed requests", f"{p99 / p99_steady:.2f}", "1.1"),
        ("memory, MiB", f"{before.memory_mib:.0f} before, {after.memory_mib:.0f} after", ""),
        (f"  of a bare grpc.aio server, {count:,} calls", f"{bare_grown:+.1f} (ours {grown:+.1f})", ""),
    ]
    for fault in fuzz.faults + over_http.faults:
        print(fault, file=sys.stderr)
    figures = {"codes": codes, "faults": faulty, "seconds": seconds, "messages_per_s": arguments.messages / seconds}
    figures |= {
        "memory_mib": [before.memory_mib, after.memory_mib],
        "bare_memory_mib": [bare_before.memory_mib, bare_after.memory_mib],
    }
    finish(arguments, rows, {**figures, "p99_ms": 1000 * p99, "p99_steady_ms": 1000 * p99_steady})
    sys.exit(1 if faulty else 0)


async def _ask_bare(target: str, generator: Generator, calls: int, callers: int) -> None:
    """Send mutated messages of Parse to a server without our code."""
    left = iter(range(calls))

    async def caller(channel: grpc.aio.Channel) -> None:
        for _ in left:
            await channel.unary_unary(_PARSE)(generator.mutated(METHODS[_PARSE].input_type), timeout=_PATIENCE_S)

    async with grpc.aio.insecure_channel(target, options=NO_PROXY) as channel:
        await asyncio.gather(*(caller(channel) for _ in range(callers)))


def _names(target: str) -> list[str]:
    """Of the model, its tasks and its graph's outputs: what requests are about."""
    from palm_serve.client import Client

    with Client(target) as client:
        model = client.models()[0]
    return [model.name, f"{model.name}/stable", "stable", *(task.name for task in model.tasks), "slots.json"]


if __name__ == "__main__":
    main()
