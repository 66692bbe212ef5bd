"""What the product makes of a cloud that fails: through its own modules and the real SDKs, by the fault switch."""

from __future__ import annotations

import dataclasses
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from azure.storage.fileshare import ShareLeaseClient

from scripts import cloud, deployment, environment, errors, garbage
from scripts import release as releases
from scripts import share as shares
from scripts.environment import Environment
from scripts.files import ShareClient
from scripts.garbage import Item
from scripts.lock import Lock
from tests.conftest import RunningStandIn, running_stand_in
from tests.faults import Switch
from tests.share_on_stand_in import ACCOUNT, RESOURCE_GROUP, clients_of, new_share, sdk_share
from tests.test_deployment import STORAGE, Heard, own_account, small_template, with_parameters
from tests.waiting import until

ROOT = Path(__file__).parent.parent
DEPLOYMENTS = "/providers/Microsoft.Resources/deployments/inferops"


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStandIn]:
    """A stand-in of this module's own: its faults meet no other test."""
    with running_stand_in(tmp_path_factory.mktemp("faulty") / "state") as running:
        yield running


@pytest.fixture(scope="module")
def switch(faulty: RunningStandIn) -> Switch:
    return Switch(faulty)


@pytest.fixture
def local() -> Environment:
    return dataclasses.replace(environment.load("local", ROOT), resource_group=f"rg-{uuid.uuid4().hex[:12]}")


@pytest.fixture
def clients(local: Environment, faulty: RunningStandIn) -> Iterator[cloud.Clients]:
    with cloud.connect(local, variables={cloud.STAND_IN_VARIABLE: str(faulty.announcement_file)}) as connected:
        yield connected


def request_of(local: Environment) -> deployment.Request:
    """A deployment of one account, which nobody else has."""
    return deployment.request(with_parameters(local, account=own_account()), small_template(STORAGE), {})


# --- provisioning


def test_the_answer_to_a_deployment_is_lost(local: Environment, clients: cloud.Clients, switch: Switch) -> None:
    lost = {"fault": "dropped-connection", "when": "after", "method": ["PUT"], "path": DEPLOYMENTS, "count": 1}
    # Still going on when the SDK sends the request again: that is answered by 409 DeploymentActive.
    slow = {"fault": "slow-operation", "path": DEPLOYMENTS, "seconds": 2}
    with switch.on(lost, slow):
        heard = Heard()
        outputs = deployment.create(clients, request_of(local), heard)
        assert switch.fired() == [1, 1]
        (rule, _) = switch.rules()
        assert rule["met"] == 2
    assert outputs.storage_account_name.startswith("storage_account_name-")
    assert heard.types == ["Microsoft.Resources/resourceGroups", "Microsoft.Storage/storageAccounts"]
    assert len(list(clients.deployments.deployments.list_by_resource_group(local.resource_group))) == 1


def test_a_request_that_never_arrived_is_sent_again(local: Environment, clients: cloud.Clients, switch: Switch) -> None:
    dropped = {"fault": "dropped-connection", "when": "before", "service": "resource-manager"}
    with switch.on({**dropped, "probability": 0.5, "seed": 3, "count": 2}):
        outputs = deployment.create(clients, request_of(local), Heard())
        assert switch.fired() == [2]
    assert deployment.last_outputs(clients, local) == outputs


def test_throttling_is_waited_out(local: Environment, clients: cloud.Clients, switch: Switch) -> None:
    creating = {"fault": "throttled", "method": ["PUT"], "path": DEPLOYMENTS, "count": 1, "retry_after_seconds": 2}
    polling = {"fault": "unavailable", "method": ["GET"], "path": DEPLOYMENTS, "count": 1}
    with switch.on(creating, polling):
        begun = time.monotonic()
        deployment.create(clients, request_of(local), Heard())
        assert time.monotonic() - begun >= 3
        assert switch.fired() == [1, 1]


def test_throttling_that_does_not_end_is_said(local: Environment, clients: cloud.Clients, switch: Switch) -> None:
    with (
        switch.on({"fault": "throttled", "service": "resource-manager", "method": ["HEAD", "PUT"]}),
        pytest.raises(errors.Throttled) as caught,
    ):
        deployment.create(clients, request_of(local), Heard())
    assert caught.value.status == 429
    assert caught.value.next_step


def test_tokens_end_all_the_time(local: Environment, faulty: RunningStandIn, switch: Switch) -> None:
    with switch.on(
        {"fault": "short-token", "seconds": 2}, {"fault": "slow-operation", "path": DEPLOYMENTS, "seconds": 2}
    ):
        variables = {cloud.STAND_IN_VARIABLE: str(faulty.announcement_file)}
        with cloud.connect(local, variables=variables) as clients:
            deployment.create(clients, request_of(local), Heard())
        assert switch.fired()[0] >= 3


def test_a_token_that_is_refused_half_way_is_said_and_the_next_run_completes(
    local: Environment, clients: cloud.Clients, switch: Switch
) -> None:
    asked = request_of(local)
    expired = {"fault": "expired-token", "method": ["GET"], "path": DEPLOYMENTS, "after": 2}
    with (
        switch.on(expired, {"fault": "slow-operation", "path": DEPLOYMENTS, "seconds": 1}),
        pytest.raises(errors.NotSignedIn) as caught,
    ):
        deployment.create(clients, asked, Heard())
    assert caught.value.code == "ExpiredAuthenticationToken"
    outputs = deployment.create(clients, asked, Heard())
    assert deployment.last_outputs(clients, local) == outputs


def test_an_operation_that_fails_is_named_with_its_code(
    local: Environment, clients: cloud.Clients, switch: Switch
) -> None:
    no_capacity = {"code": "ManagedEnvironmentNoAvailableCapacityInRegion", "message": "No capacity in swedencentral."}
    with (
        switch.on({"fault": "failed-operation", "path": "/storageAccounts/", "count": 1, **no_capacity}),
        pytest.raises(errors.RegionUnsuitable, match="No capacity in swedencentral") as caught,
    ):
        deployment.create(clients, request_of(local), Heard())
    assert caught.value.code == no_capacity["code"]


# Each code of the resource manager that this flow may meet, and what it means to the product.
CODES: list[tuple[int, str, type[errors.CloudError]]] = [
    (403, "RequestDisallowedByPolicy", errors.Forbidden),
    (403, "LinkedAuthorizationFailed", errors.Forbidden),
    (409, "DeploymentQuotaExceeded", errors.QuotaExceeded),
    (400, "MaxNumberOfGlobalEnvironmentsInSubExceeded", errors.QuotaExceeded),
    (409, "MissingSubscriptionRegistration", errors.NotRegistered),
    (409, "StorageAccountAlreadyTaken", errors.NameTaken),
    (400, "WorkloadProfileInvalidType", errors.RegionUnsuitable),
    (409, "ContainerAppOperationInProgress", errors.Busy),
    (409, "ManagedEnvironmentOperationInProgress", errors.Busy),
    (400, "InvalidTemplate", errors.Invalid),
]


@pytest.mark.parametrize(("status", "code", "kind"), CODES)
def test_any_code_can_be_provoked_and_is_understood(
    local: Environment, clients: cloud.Clients, switch: Switch, status: int, code: str, kind: type[errors.CloudError]
) -> None:
    rule = {"fault": "refused", "status": status, "code": code, "message": f"Said by {code}."}
    with (
        switch.on({**rule, "method": ["PUT"], "path": DEPLOYMENTS}),
        pytest.raises(kind, match=f"Said by {code}") as caught,
    ):
        deployment.create(clients, request_of(local), Heard())
    assert caught.value.code == code
    assert caught.value.next_step


# --- the upload


@pytest.fixture
def share(faulty: RunningStandIn) -> Iterator[ShareClient]:
    """A share as the product reaches it: by the account's key, with the product's own retries."""
    name = f"f{uuid.uuid4().hex[:12]}"
    with new_share(faulty, name), clients_of(faulty, RESOURCE_GROUP) as clients:
        made = clients.share(ACCOUNT, name)
        shares.make_folders(made, ["model-cache/demo"])
        shares.write_small_file(made, "model-cache/demo/config.json", b"{}")
        yield made


@pytest.fixture
def package(tmp_path: Path) -> releases.Package:
    for path, content in {
        "repository/inference/start.sh": b"exec python serve.py\n",
        "repository/inference/serve.py": b"print('one')\n",
        "repository/requirements/inference.txt": b"torch==2.0\n",
        "repository/requirements/quantization.txt": b"bitsandbytes==0.50\n",
        "repository/requirements/uv.txt": b"uv==0.13\n",
        "adapter/adapter_config.json": b"{}",
        "adapter/adapter_model.safetensors": uuid.uuid4().bytes * 800_000,
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    adapters: dict[str, Any] = {"default": tmp_path / "adapter"}
    return releases.prepare(tmp_path / "repository", base="model-cache/demo", adapters=adapters, commit="c0ffee")


def deploy(share: ShareClient, package: releases.Package) -> None:
    with Lock(share, lease_seconds=15) as lock:
        releases.upload(share, package, lock)
        releases.set_current(share, package.release.id, lock, previous=None)


def check_whole(share: ShareClient, package: releases.Package, state: Path) -> None:
    """Everything that the package holds is on the share, byte for byte, and nothing half made beside it."""
    assert releases.read_current_id(share) == package.release.id
    root = state / "shares" / ACCOUNT / str(share.share_name)
    groups = [(f"releases/{package.release.id}", package.code), *((one.folder, one.files) for one in package.bundles)]
    for folder, files in groups:
        for file in files:
            assert file.source is not None
            assert (root / folder / file.entry.path).read_bytes() == file.source.read_bytes()
    assert not [path for path in root.rglob("*") if ".incomplete" in path.name]


@pytest.mark.parametrize(
    "rule",
    [
        {"fault": "dropped-connection", "when": "before", "path": "comp=range", "count": 1},
        {"fault": "dropped-connection", "when": "after", "path": "comp=range", "count": 2},
        {"fault": "unavailable", "path": "comp=range", "count": 2},
        {"fault": "internal-error", "method": ["PUT"], "after": 3, "count": 1},
    ],
    ids=lambda rule: "-".join(str(rule.get(key, "")) for key in ("fault", "when")),
)
def test_an_upload_survives(
    share: ShareClient, package: releases.Package, faulty: RunningStandIn, switch: Switch, rule: dict[str, Any]
) -> None:
    with switch.on({"service": "files", **rule}):
        deploy(share, package)
        assert switch.fired()[0] >= 1
    check_whole(share, package, faulty.state)


@pytest.mark.parametrize("fault", ["throttled", "unavailable"])
def test_the_file_service_is_asked_again_when_it_says(share: ShareClient, switch: Switch, fault: str) -> None:
    """Neither sooner than its Retry-After says, nor never."""
    with switch.on({"fault": fault, "service": "files", "method": ["PUT"], "count": 1, "retry_after_seconds": 3}):
        begun = time.monotonic()
        shares.write_small_file(share, "current", b"x")
        assert time.monotonic() - begun >= 3
        assert switch.fired() == [1]


def test_a_full_share_ends_the_upload_with_words_and_room_lets_it_complete(
    share: ShareClient, package: releases.Package, faulty: RunningStandIn, switch: Switch
) -> None:
    with (
        switch.on({"fault": "full-share", "path": "comp=range", "after": 1}),
        pytest.raises(errors.CloudError) as caught,
    ):
        deploy(share, package)
    assert caught.value.code == "ShareSizeLimitReached"
    assert caught.value.next_step
    assert releases.read_current_id(share) is None
    deploy(share, package)
    check_whole(share, package, faulty.state)


@pytest.mark.parametrize("write", ["current", "rename", "removal"])
def test_what_is_written_under_a_lease_is_not_sent_again_once_it_is_lost(
    share: ShareClient, switch: Switch, write: str
) -> None:
    """Whatever the service answered before: by then another run may hold the share."""

    def lost_after_the_first_attempt() -> float:
        if switch.fired()[0]:
            raise errors.Locked("The lease was lost.", "Run the same command again.")
        return 30.0

    leased = share.within(lost_after_the_first_attempt)
    sent = {
        "current": lambda: shares.write_small_file(leased, "current", b"x"),
        "rename": lambda: shares.move_folder(leased, "model-cache", "moved"),
        "removal": lambda: shares.delete_file(leased, "model-cache/demo/config.json"),
    }
    with (
        switch.on({"fault": "unavailable", "service": "files", "method": ["PUT", "DELETE"], "count": 1}),
        pytest.raises(errors.Locked),
    ):
        sent[write]()
    assert shares.list_folder(share, "") == [("model-cache", None)]
    assert shares.file_exists(share, "model-cache/demo/config.json")


def test_an_answer_is_not_waited_for_beyond_the_lease(share: ShareClient, switch: Switch) -> None:
    with switch.on({"fault": "latency", "service": "files", "method": ["PUT"], "seconds": 3, "count": 1}):
        leased = share.within(lambda: 40.0 if switch.fired()[0] else 2.0)
        shares.write_small_file(leased, "current", b"x")
        (rule,) = switch.rules()
    assert rule["met"] == 2, "the first attempt was given up, and there was time for a second one"


REST = Item("rest", "releases/.removed-0123", ("file",), (), 1)


def remove_rest(share: ShareClient, package: releases.Package) -> None:
    with Lock(share, lease_seconds=15) as lock:
        garbage.remove(share, lock, [REST])


@pytest.mark.parametrize(
    ("run", "path"), [(deploy, "safetensors$"), (deploy, "release[.]json$"), (remove_rest, f"{REST.folder}/file$")]
)
def test_a_run_that_has_lost_its_lease_ends_and_leaves_the_next_one_alone(
    share: ShareClient,
    package: releases.Package,
    faulty: RunningStandIn,
    switch: Switch,
    run: Callable[[ShareClient, releases.Package], None],
    path: str,
) -> None:
    """Two complete the same folder, or remove it; the first is told to ask again in an hour, and loses its lease."""
    shares.make_folders(share, [REST.folder])
    shares.write_small_file(share, f"{REST.folder}/file", b"x")
    ended: list[errors.InferopsError] = []

    def first() -> None:
        try:
            run(share, package)
        except errors.InferopsError as error:
            ended.append(error)

    busy = {"fault": "unavailable", "service": "files", "method": ["PUT", "DELETE"], "path": path, "count": 1}
    with switch.on({**busy, "retry_after_seconds": 3600}), clients_of(faulty, RESOURCE_GROUP) as clients:
        thread = threading.Thread(target=first, daemon=True)
        thread.start()
        until(lambda: switch.fired()[0], "the request that is refused for now")
        ShareLeaseClient(sdk_share(faulty, share.share_name)).break_lease(lease_break_period=0)
        run(clients.share(ACCOUNT, share.share_name), package)
        until(lambda: not thread.is_alive(), "the end of the first run")
    assert isinstance(ended[0], errors.Locked)
    if run is deploy:
        shutil.rmtree(faulty.state / "shares" / ACCOUNT / share.share_name / REST.folder)
        check_whole(share, package, faulty.state)
    else:
        assert not shares.folder_exists(share, REST.folder)
