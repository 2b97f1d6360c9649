"""Routes for operators, approvers and auditors, `/v1`."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query

from flows.register import anchors
from flows.register.register import OPEN, Case, Event, RegisterError, State
from flows.release import approval
from flows.release.standing import Standing
from flows.server.auth import Client, Right
from flows.server.bodies import (
    ApprovalBody,
    BrokenChain,
    CaseAnswer,
    CasePage,
    EventPage,
    Health,
    HoldBody,
    IdentityBody,
    IntactChain,
    ReasonBody,
    RejectionBody,
    StandingAnswer,
)
from flows.server.dependencies import (
    Allowed,
    AllowedToSend,
    BatchAskedFor,
    BatchName,
    Kind,
    Limit,
    Offset,
    RequestId,
    TheOffice,
)
from flows.server.error_answers import EXPECTED
from flows.server.guarded_route import GuardedRoute
from flows.server.responses import responses

PAGE = 100
"""Requests or events in an answer, where the query does not say otherwise."""

ReadsRequests = Depends(Allowed(Right.LIST))
ReadsEvents = Depends(Allowed(Right.EVENTS))
ReadsChain = Depends(Allowed(Right.CHAIN))

health = APIRouter(route_class=GuardedRoute)
requests = APIRouter(prefix="/v1/requests", route_class=GuardedRoute, responses=responses(401, 403))
changes = APIRouter(
    prefix="/v1/requests/{request}",
    route_class=GuardedRoute,
    responses=responses(400, 401, 403, 404, 409, 413, 415),
)
batches = APIRouter(
    prefix="/v1/batches/{batch}",
    route_class=GuardedRoute,
    responses=responses(400, 401, 403, 404, 409, 413, 415),
)
log = APIRouter(prefix="/v1", route_class=GuardedRoute, responses=responses(401, 403))


@requests.get(
    "",
    summary="All requests",
    dependencies=[ReadsRequests],
    response_model=CasePage,
    responses=responses(400, 404),
)
def list_requests(
    office: TheOffice,
    batch: BatchAskedFor,
    state: Annotated[
        State | Literal["on_hold"] | None, Query(description=EXPECTED["state"])
    ] = None,
    limit: Limit = PAGE,
    offset: Offset = 0,
) -> dict[str, object]:
    """Requests, the nearest deadline first."""
    held = state == "on_hold"
    states = None if state is None else OPEN if held else (State(state),)
    total, cases = office.register.page(states, batch, held=held, first=offset, limit=limit)
    return {"total": total, "requests": cases}


@requests.get(
    "/{request}",
    summary="One request",
    dependencies=[ReadsRequests],
    response_model=CaseAnswer,
    responses=responses(404),
)
def show_request(office: TheOffice, request_id: RequestId) -> Case:
    """One request as it is now."""
    return office.register.case(request_id)


@requests.get(
    "/{request}/events",
    summary="Its history",
    dependencies=[ReadsEvents],
    response_model=EventPage,
    responses=responses(404),
)
def request_events(office: TheOffice, request_id: RequestId) -> dict[str, list[Event]]:
    """Everything that happened to one request."""
    office.register.case(request_id)
    return {"events": office.register.history(request_id)}


@changes.post(
    "/identity",
    summary="The identity is verified",
    response_model=CaseAnswer,
)
def identity(
    client: Annotated[Client, Depends(AllowedToSend(Right.IDENTITY))],
    office: TheOffice,
    request_id: RequestId,
    body: IdentityBody,
) -> Case:
    """Mark the identity as verified."""
    return office.register.verify_identity(request_id, client.name, body.how)


@changes.post("/hold", summary="Legal hold", response_model=CaseAnswer)
def hold(
    client: Annotated[Client, Depends(AllowedToSend(Right.HOLD))],
    office: TheOffice,
    request_id: RequestId,
    body: HoldBody,
) -> Case:
    """Put a legal hold on a request."""
    return office.register.hold(request_id, client.name, **body.given_fields())


@changes.post("/lift", summary="Lift the hold", response_model=CaseAnswer)
def lift(
    client: Annotated[Client, Depends(AllowedToSend(Right.HOLD))],
    office: TheOffice,
    request_id: RequestId,
    body: ReasonBody,
) -> Case:
    """Lift a legal hold."""
    return office.register.lift(request_id, client.name, body.reason)


@changes.post(
    "/extend",
    summary="Extend the deadline",
    response_model=CaseAnswer,
)
def extend(
    client: Annotated[Client, Depends(AllowedToSend(Right.EXTEND))],
    office: TheOffice,
    request_id: RequestId,
    body: ReasonBody,
) -> Case:
    """Extend the deadline, once, as the regulation allows."""
    return office.register.extend(request_id, client.name, body.reason)


@changes.post(
    "/reject",
    summary="Refuse it for good",
    response_model=CaseAnswer,
)
def refuse(
    client: Annotated[Client, Depends(AllowedToSend(Right.REFUSE))],
    office: TheOffice,
    request_id: RequestId,
    body: ReasonBody,
) -> Case:
    """Refuse a request for good, as long as no batch holds it."""
    return office.register.cancel(request_id, client.name, body.reason)


@batches.post(
    "/approve",
    summary="Approve a release",
    response_model=StandingAnswer,
)
def approve(
    client: Annotated[Client, Depends(AllowedToSend(Right.DECIDE))],
    office: TheOffice,
    batch: BatchName,
    body: ApprovalBody,
) -> Standing:
    """Approve the release of a batch. Who approves is the token's name, whatever the body says."""
    return approval.approve(
        office.home,
        office.register,
        batch,
        client.name,
        body.comment,
        model=body.model,
        ground=body.ground or "",
    )


@batches.post(
    "/reject",
    summary="Send a batch back",
    response_model=StandingAnswer,
)
def reject(
    client: Annotated[Client, Depends(AllowedToSend(Right.DECIDE))],
    office: TheOffice,
    batch: BatchName,
    body: RejectionBody,
) -> Standing:
    """Send a batch back, and say what is to be done next."""
    return approval.reject(
        office.home,
        office.register,
        batch,
        client.name,
        body.comment,
        body.next,
        body.method,
        ground=body.ground or "",
    )


@log.get("/chain", summary="Is the chain whole?", dependencies=[ReadsChain])
def chain(office: TheOffice) -> IntactChain | BrokenChain:
    """Whether the chain of events is whole, the ends that git keeps included; where it ends."""
    try:
        head = anchors.check(office.home, office.register)
    except RegisterError as error:
        return BrokenChain(message=str(error))
    return IntactChain(events=head.seq, head=head.hash)


@log.get(
    "/events",
    summary="The latest events",
    dependencies=[ReadsChain],
    response_model=EventPage,
    responses=responses(400),
)
def latest_events(
    office: TheOffice, kind: Kind = None, limit: Limit = PAGE, offset: Offset = 0
) -> dict[str, list[Event]]:
    """The latest events, of a kind where one is asked for, as access_denied."""
    return {"events": office.register.latest(kind, offset, limit)}


@health.get("/healthz", summary="Is the server there?")
async def healthz() -> Health:
    """That the server is there, and nothing else."""
    return Health()


ROUTERS = (requests, changes, batches, log, health)
