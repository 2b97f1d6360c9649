"""Routes for controllers: OpenDSR 1.0, also at the paths of its earlier version."""

from __future__ import annotations

import base64
from typing import Annotated

from fastapi import APIRouter, Body, Depends, Response

from flows.intake import callbacks, drop_folder
from flows.register.register import Event, Register, UnknownRequestError
from flows.server.auth import Client, Right
from flows.server.bodies import (
    Cancellation,
    Discovery,
    OpenDsrRequest,
    Receipt,
    RequestStatus,
    SupportedIdentity,
)
from flows.server.dependencies import Allowed, AllowedToSend, RequestId, TheOffice, raw_body
from flows.server.guarded_route import GuardedRoute, SignedRoute
from flows.server.responses import responses
from tasks.common import files
from tasks.requests import opendsr
from tasks.signatures import keys

PATH = "/opendsr/v1"


def receive(
    client: Annotated[Client, Depends(AllowedToSend(Right.SUBMIT))],
    office: TheOffice,
    content: Annotated[bytes, Depends(raw_body)],
    request: Annotated[OpenDsrRequest, Body()],
    response: Response,
) -> Receipt:
    """Take a request in: 201 if it is new, 200 if it was here before with the same content."""
    case, new = drop_folder.enter(office.home, office.register, request, client.name, "http")
    response.status_code = 201 if new else 200
    response.headers["Location"] = f"{PATH}/requests/{case.request_id}"
    notice = callbacks.notice_of(office.register.history(case.request_id))
    return Receipt(
        controller_id=notice.controller,
        expected_completion_time=notice.completion,
        received_time=notice.received,
        encoded_request=base64.b64encode(content).decode("ascii"),
        subject_request_id=case.request_id,
        api_version=callbacks.API_VERSION,
    )


def status(
    client: Annotated[Client, Depends(Allowed(Right.STATUS))],
    office: TheOffice,
    request_id: RequestId,
) -> RequestStatus:
    """How far a request is, in OpenDSR's words."""
    notice = callbacks.notice_of(_own_history(office.register, request_id, client))
    return RequestStatus.model_validate(
        {
            "controller_id": notice.controller,
            "expected_completion_time": notice.completion,
            "subject_request_id": notice.request_id,
            "request_status": notice.status,
            "api_version": callbacks.API_VERSION,
        }
    )


def cancel(
    client: Annotated[Client, Depends(Allowed(Right.CANCEL))],
    office: TheOffice,
    request_id: RequestId,
) -> Cancellation:
    """Withdraw a request that is in no batch yet."""
    receipt = _own_history(office.register, request_id, client)[0]
    office.register.cancel(request_id, client.name, "cancelled by the controller")
    return Cancellation(
        controller_id=receipt.actor,
        received_time=files.timestamp(),
        subject_request_id=request_id,
        api_version=callbacks.API_VERSION,
    )


async def discovery(office: TheOffice) -> Discovery:
    """What the server understands, and where the certificate of its signatures is."""
    return Discovery(
        api_version=callbacks.API_VERSION,
        supported_identities=[
            SupportedIdentity(identity_type=name, identity_format=form)
            for name in office.identity_types
            for form in ("raw", "sha256")
        ],
        supported_subject_request_types=["erasure"],
        supported_regulations=list(opendsr.REGULATIONS),
        processor_certificate=f"{office.public_url or ''}{PATH}/certificate.pem",
    )


async def certificate(office: TheOffice) -> Response:
    """The certificate by which answers and callbacks are checked."""
    return Response(keys.public_pem(office.key), media_type="application/x-pem-file")


def _own_history(register: Register, request_id: str, client: Client) -> list[Event]:
    """A request's events, if the client may know of it.

    Raises:
        UnknownRequestError: there is no such request, or it is another's; the answer is the same.
    """
    history = register.history(request_id)
    if not history or (client.sees_only_own and history[0].actor != client.name):
        raise UnknownRequestError("no such request")
    return history


def _requests(path: str, shown: bool) -> APIRouter:
    router = APIRouter(prefix=path, route_class=SignedRoute, include_in_schema=shown)
    router.post(
        "",
        summary="Send a request",
        responses=responses(200, 400, 401, 403, 409, 413, 415) | {201: {"model": Receipt}},
    )(receive)
    router.get("/{request}", summary="How far it is", responses=responses(401, 403, 404))(status)
    router.delete(
        "/{request}", summary="Cancel it", status_code=202, responses=responses(401, 403, 404, 409)
    )(cancel)
    return router


def _discovery(path: str, shown: bool) -> APIRouter:
    router = APIRouter(prefix=path, route_class=SignedRoute, include_in_schema=shown)
    router.get("/discovery", summary="What is understood")(discovery)
    return router


_certificate = APIRouter(prefix=PATH, route_class=GuardedRoute)
_certificate.get(
    "/certificate.pem", summary="Certificate of the signatures", response_class=Response
)(certificate)

ROUTERS = (
    _requests(f"{PATH}/requests", shown=True),
    _requests("/v1/opendsr_requests", shown=False),
    _discovery(PATH, shown=True),
    _discovery("/v1", shown=False),
    _certificate,
)
