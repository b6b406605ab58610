"""The application: which path does what."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from nano_llada import __version__
from nano_llada.config.serving import ServingOptions
from nano_llada.core.errors import UserError
from nano_llada.serve import metrics, prepare, protocol
from nano_llada.serve.answers import Answer, ChatAnswer, GapsAnswer, TextAnswer, scored
from nano_llada.serve.check import checked
from nano_llada.serve.document import BODIES, ERRORS, described, responses
from nano_llada.serve.guard import Application, Guard
from nano_llada.serve.in_turn import InTurn
from nano_llada.serve.keys import Keys
from nano_llada.serve.models import Models, Served
from nano_llada.serve.note import Note
from nano_llada.serve.page import add_page, read_page
from nano_llada.serve.refusal import Refusal, bad, our_error, wrong_body
from nano_llada.serve.stream import EventStream, Gone, collected, stopping, too_many, while_connected
from nano_llada.serve.worker import Events, QueueFull, Stopped

QUICK = 4096  # bytes of a request that is prepared at once

Body = TypeVar("Body", bound=protocol.Writing)
Prepare = Callable[[Body, Served, ServingOptions], prepare.Task]


@dataclass
class Server:
    """An application, and what its process needs to know of it."""

    application: Application
    guard: Guard
    models: Models
    api: FastAPI


def make_server(
    models: Models, options: ServingOptions, keys: Keys | None = None, hosts: Collection[str] | None = None
) -> Server:
    """The application over models whose workers run.

    Args:
        keys: who may use it; default: everybody.
        hosts: names under which it may be addressed; None: any.
    """
    keys, figures = keys or Keys({}), metrics.Metrics(models)
    # the documentation pages of FastAPI load programs from elsewhere
    api = FastAPI(title="nano-llada", version=__version__, docs_url=None, redoc_url=None)
    guard = Guard(api, options, keys, figures, hosts)
    for refused in (Refusal, RequestValidationError, HTTPException, Exception):
        api.add_exception_handler(refused, _refused)
    _add_writing(api, models, options)
    _add_scoring(api, models, options)
    _add_checking(api)
    _add_models(api, models)
    _add_operations(api, models, guard, figures)
    add_page(api, read_page())
    api.openapi = lambda: described(api, [served.name for served in models], secured=bool(keys))  # type: ignore[method-assign]
    application: Application = guard
    if options.cors:
        application = CORSMiddleware(
            guard,
            allow_origins=options.cors,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
        )
    return Server(application, guard, models, api)


async def _refused(request: Request, error: Exception) -> Response:
    """Every error as OpenAI's error object."""
    found = error if isinstance(error, Refusal) else _as_refusal(request, error)
    request.scope["note"].error = found.message
    return found.response()


def _as_refusal(request: Request, error: Exception) -> Refusal:
    if isinstance(error, RequestValidationError):
        return wrong_body(error.errors(), error.body, BODIES.get(request.scope["path"]))
    if isinstance(error, HTTPException):
        message = {
            400: "the body is not valid JSON, or has values that are nested too deeply or numbers that are too long",
            404: "no such path",
            405: "this path does not take this method",
        }.get(error.status_code)
        code = "not_found" if error.status_code == 404 else None
        return Refusal(error.status_code, message or str(error.detail), code=code, headers=error.headers)
    return our_error()


def _add_writing(api: FastAPI, models: Models, options: ServingOptions) -> None:
    async def answer(request: Request, body: Body, how: Prepare[Body], kind: type[Answer]) -> Response:
        note: Note = request.scope["note"]
        served = models.get(body.model)
        # a long prompt takes a while to encode, a constraint to compile; for others a thread would cost more
        quick = len(await request.body()) < QUICK and not body.model_fields_set & {"constraint", "response_format"}
        task = how(body, served, options) if quick else await asyncio.to_thread(how, body, served, options)
        note.stream = bool(body.stream)
        if options.log_prompts:
            note.prompt = body.model_dump(exclude_none=True)
        found = kind(task, note)
        async with AsyncExitStack() as resources:
            events = await _opened(resources, served, task, patient=not body.stream)
            if options.log_prompts:
                resources.callback(lambda: setattr(note, "text", found.texts()))
            if not body.stream:
                return JSONResponse(await collected(events, found, request, options.request_seconds))
            seconds, usage = options.request_seconds, body.usage_wanted
            return EventStream(events, found, resources.pop_all(), note, seconds=seconds, usage=usage)

    statuses = tuple(ERRORS)

    @api.post(
        "/v1/chat/completions",
        responses=responses(protocol.ChatCompletion, *statuses, stream=protocol.ChatChunk),
    )
    async def chat(request: Request, body: protocol.ChatRequest) -> Response:
        """Answer a conversation."""
        return await answer(request, body, prepare.chat, ChatAnswer)

    @api.post(
        "/v1/completions",
        responses=responses(protocol.Completion, *statuses, stream=protocol.TextChunk),
    )
    async def completions(request: Request, body: protocol.CompletionRequest) -> Response:
        """Continue a text."""
        return await answer(request, body, prepare.completion, TextAnswer)

    @api.post("/v1/infill", responses=responses(protocol.Infilled, *statuses, stream=protocol.InfillChunk))
    async def infill(request: Request, body: protocol.InfillRequest) -> Response:
        """Fill the gaps of a text."""
        return await answer(request, body, prepare.infill, GapsAnswer)


async def _opened(resources: AsyncExitStack, served: Served, task: prepare.Task, *, patient: bool) -> Events | InTurn:
    """The events of a task, whose requests have been queued."""
    ends = served.writer.tokenizer.vocab.ends
    try:
        if task.gaps is not None and task.turns is not None:
            turns = InTurn(served.worker, task.gaps, task.turns, ends, patient=patient)
            return await resources.enter_async_context(turns)
        return await resources.enter_async_context(served.worker.open(task.requests, task.stop, patient=patient))
    except QueueFull as full:
        raise too_many(full) from full
    except Stopped as error:
        raise stopping(error) from error
    except UserError as error:
        raise bad(str(error)) from error


def _add_scoring(api: FastAPI, models: Models, options: ServingOptions) -> None:
    @api.post("/v1/score", responses=responses(protocol.Score, *ERRORS))
    async def score(request: Request, body: protocol.ScoreRequest) -> Response:
        """How likely a text is, after a prompt."""
        served = models.get(body.model)
        note: Note = request.scope["note"]
        note.model = served.name
        if options.log_prompts:
            note.prompt = body.model_dump()
        prepare.check_score(body, served)
        job = served.worker.compute(
            lambda: served.writer.score(body.text, given=body.prompt, draws=body.draws, seed=body.seed)
        )
        try:
            async with asyncio.timeout(options.request_seconds):
                found = await while_connected(request.receive, job)
        except UserError as error:
            raise bad(str(error), "text") from error
        except QueueFull as full:
            raise too_many(full) from full
        except Stopped as error:
            raise stopping(error) from error
        except Gone:
            raise Refusal(499, "the client has gone") from None
        except TimeoutError:
            raise Refusal(504, "scoring took too long", code="timeout") from None
        return JSONResponse(scored(served.name, vars(found), found.bits_per_byte))


def _add_checking(api: FastAPI) -> None:
    @api.post("/v1/check", responses=responses(protocol.Checked, *ERRORS))
    async def check(body: protocol.CheckRequest) -> Response:
        """Whether a story of the story world contradicts itself."""
        return JSONResponse(await asyncio.to_thread(checked, body.text, body.language))


def _add_models(api: FastAPI, models: Models) -> None:
    @api.get("/v1/models", responses=responses(protocol.ModelList, 401, 421))
    async def listed() -> Response:
        """What is served."""
        return JSONResponse({"object": "list", "data": [served.described for served in models]})

    @api.get("/v1/models/{name:path}", responses=responses(protocol.ModelObject, 401, 404, 421))
    async def model(name: str) -> Response:
        """One model."""
        return JSONResponse(models.get(name).described)


def _add_operations(api: FastAPI, models: Models, guard: Guard, figures: metrics.Metrics) -> None:
    @api.get("/health", responses=responses(protocol.Health, 421))
    async def health() -> Response:
        """The process is alive."""
        return JSONResponse({"status": "ok"})

    @api.get("/ready", responses=responses(protocol.Health, 421, 503))
    async def ready() -> Response:
        """It accepts requests."""
        if guard.draining or not models.ready:
            raise Refusal(503, "the server is stopping", code="shutting_down", headers={"Retry-After": "5"})
        return JSONResponse({"status": "ready"})

    @api.get("/metrics", responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}})
    async def measured() -> Response:
        """Figures for Prometheus."""
        return Response(figures.page(), media_type=metrics.CONTENT_TYPE)
