"""``/secrets`` and ``/configs``. No secret's payload can be shown here: the managers do not give it away."""

from aiohttp import web

from pyswarm.common.errors import InvalidArgument
from pyswarm.common.files import FileKind, wrong_size
from pyswarm.gateway import filters, views
from pyswarm.gateway.backend import BACKEND, Route, json_response, version_of
from pyswarm.gateway.fields import decode_json
from pyswarm.gateway.specs import config_spec, secret_spec


async def _body(request: web.Request, kind: FileKind) -> object:
    """What the client sent; more than any request may hold is told in the words for too large a payload."""
    try:
        return decode_json(await request.read())
    except web.HTTPRequestEntityTooLarge as exc:
        raise InvalidArgument(wrong_size(kind)) from exc


async def list_secrets(request: web.Request) -> web.Response:
    """All secrets."""
    wanted = filters.parse(request.query.get("filters"), filters.FILES)
    control = await request.app[BACKEND].reader(request)
    return json_response([views.secret(secret) for secret in await control.list_secrets(wanted)])


async def create_secret(request: web.Request) -> web.Response:
    """A new secret."""
    control = await request.app[BACKEND].control()
    secret = await control.create_secret(secret_spec(await _body(request, "secret")))
    return json_response({"ID": secret.id}, 201)


async def inspect_secret(request: web.Request) -> web.Response:
    """One secret."""
    control = await request.app[BACKEND].control()
    return json_response(views.secret(await control.get_secret(request.match_info["ref"])))


async def update_secret(request: web.Request) -> web.Response:
    """Other labels for a secret."""
    control = await request.app[BACKEND].control()
    spec = secret_spec(await _body(request, "secret"))
    await control.update_secret(request.match_info["ref"], version_of(request), spec)
    return web.Response()


async def remove_secret(request: web.Request) -> web.Response:
    """The end of a secret."""
    control = await request.app[BACKEND].control()
    await control.remove_secret(request.match_info["ref"])
    return web.Response(status=204)


async def list_configs(request: web.Request) -> web.Response:
    """All configs."""
    wanted = filters.parse(request.query.get("filters"), filters.FILES)
    control = await request.app[BACKEND].reader(request)
    return json_response([views.config(config) for config in await control.list_configs(wanted)])


async def create_config(request: web.Request) -> web.Response:
    """A new config."""
    control = await request.app[BACKEND].control()
    config = await control.create_config(config_spec(await _body(request, "config")))
    return json_response({"ID": config.id}, 201)


async def inspect_config(request: web.Request) -> web.Response:
    """One config."""
    control = await request.app[BACKEND].control()
    return json_response(views.config(await control.get_config(request.match_info["ref"])))


async def update_config(request: web.Request) -> web.Response:
    """Other labels for a config."""
    control = await request.app[BACKEND].control()
    spec = config_spec(await _body(request, "config"))
    await control.update_config(request.match_info["ref"], version_of(request), spec)
    return web.Response()


async def remove_config(request: web.Request) -> web.Response:
    """The end of a config."""
    control = await request.app[BACKEND].control()
    await control.remove_config(request.match_info["ref"])
    return web.Response(status=204)


ROUTES = (
    Route("GET", "/secrets", list_secrets),
    Route("POST", "/secrets/create", create_secret),
    Route("GET", "/secrets/{ref}", inspect_secret),
    Route("DELETE", "/secrets/{ref}", remove_secret),
    Route("POST", "/secrets/{ref}/update", update_secret),
    Route("GET", "/configs", list_configs),
    Route("POST", "/configs/create", create_config),
    Route("GET", "/configs/{ref}", inspect_config),
    Route("DELETE", "/configs/{ref}", remove_config),
    Route("POST", "/configs/{ref}/update", update_config),
)
