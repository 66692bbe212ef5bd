"""The real Azure CLI, told `az cloud register` and a certificate, does this product's job against the stand-in."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.azure_cli import AzureCli, azure_cli
from tests.conftest import ROOT, RunningStandIn
from tests.resource_manager_client import account, template, unique
from tests.waiting import until
from tests.workflows.github import running_issuer

API_KEY = "a-key-of-this-test"
SERVER = """
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")
    def log_message(self, *arguments):
        print("answered", flush=True)
print("listening", flush=True)
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


@dataclass
class World:
    """What the steps work on. Names end in digits that no other test has."""

    stand_in: RunningStandIn
    az: AzureCli
    folder: Path
    number: str

    @property
    def group(self) -> str:
        return f"rg-cli-{self.number}"

    @property
    def account(self) -> str:
        return f"clistore{self.number}"

    @property
    def id(self) -> str:
        return f"/subscriptions/{self.stand_in.announcement['subscription']}/resourceGroups/{self.group}"

    @property
    def deployment(self) -> list[str]:
        """The arguments that say what is deployed: the product's template, its app a server that the share holds."""
        share = "$INFERENCE_SHARE"
        commands = [f'echo $$ > "{share}/pid"', f'exec python3 "{share}/serve.py"']
        parameters = {"storageAccountName": self.account, "fileShareName": "models", "acaAppName": "cli-app"}
        parameters |= {"acaEnvironmentName": "cli-env", "acaEnvironmentStorageName": "cli-storage"}
        parameters |= {"acaLogAnalyticsName": f"cli-log-{self.number}"}
        values = {"defaultCommands": {"value": commands}} | {key: {"value": text} for key, text in parameters.items()}
        file = self.folder / "parameters.json"
        file.write_text(json.dumps({"contentVersion": "1.0.0.0", "parameters": values}))
        compiled = str(ROOT / "infra" / "provision" / "inference.json")
        return ["-g", self.group, "-f", compiled, "--parameters", f"@{file}", f"apiKey={API_KEY}"]

    def write(self, name: str, text: str) -> str:
        """A local file."""
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return str(file)


def register(world: World) -> None:
    """Everything that the CLI is told."""
    az, url = world.az, world.stand_in.announcement["resource_manager"]
    az.text("cloud register --name StandIn --endpoint-resource-manager", f"{url}/")
    az.text("cloud set --name StandIn")
    cloud = az.json("cloud show")
    assert cloud["endpoints"]["activeDirectory"] == world.stand_in.announcement["authority"]
    assert cloud["suffixes"]["storageEndpoint"] == f"core.localhost:{httpx.URL(url).port}"
    # Azure's own directory of clouds is on the Internet and does not know this one (as with Azure Stack).
    az.text("config set core.instance_discovery=false")


def sign_in(world: World) -> None:
    """By secret as reader, by federated token as writer, and by secret as writer; what is refused, in Entra's words."""
    az, told = world.az, world.stand_in.announcement
    az.refused("account show")
    login, tenant = "login --service-principal --username", ["--tenant", told["tenant"]]
    message = az.refused(login, told["client_id"], "--password", "wrong", *tenant)
    assert message.startswith("ERROR: AADSTS7000215: Invalid client secret provided")
    az.json(login, told["reader_client_id"], "--password", told["reader_client_secret"], *tenant)
    message = az.refused("group create -l eastus -n", world.group)
    assert message.startswith(f"ERROR: (AuthorizationFailed) The client '{told['reader_client_id']}' with object id '")
    assert f"'Microsoft.Resources/subscriptions/resourcegroups/write' over scope '{world.id}'" in message
    az.text("logout")
    assert az.json("account list") == []
    with running_issuer() as issuer:
        credential = {"client_id": told["client_id"], "issuer": issuer.url, "subject": issuer.subject}
        headers = {"Authorization": f"Bearer {world.stand_in.token()}"}
        address = f"{told['authority']}/stand-in/federated-credentials"
        httpx.post(
            address, json=credential, headers=headers, verify=world.stand_in.trust, timeout=60
        ).raise_for_status()
        assertion = issuer.assertion("api://AzureADTokenExchange")
        account = az.json(login, told["client_id"], "--federated-token", assertion, *tenant)[0]
    assert (account["cloudName"], account["user"]["type"]) == ("StandIn", "servicePrincipal")
    assert az.json("group list") is not None
    az.text("logout")
    az.json(login, told["client_id"], "--password", told["client_secret"], *tenant)
    shown = az.json("account show")
    assert (shown["id"], shown["tenantId"], shown["state"]) == (told["subscription"], told["tenant"], "Enabled")
    assert [one["isDefault"] for one in az.json("account list")] == [True]
    assert az.text("account get-access-token --query tokenType -o tsv") == "Bearer\n"
    assert "eastus" in az.json("account list-locations --query [].name")


def groups_and_providers(world: World) -> None:
    az, group = world.az, world.group
    assert az.json("group exists -n", group) is False
    created = az.json("group create -l eastus --tags purpose=cli -n", group)
    assert (created["id"], created["properties"], created["tags"]) == (
        world.id,
        {"provisioningState": "Succeeded"},
        {"purpose": "cli"},
    )
    assert az.json("group show -n", group) == created
    assert az.json("group exists -n", group) is True
    assert group in az.json("group list --tag purpose=cli --query [].name")
    assert az.json("group update --tags purpose=cli second=tag -n", group)["tags"]["second"] == "tag"
    assert "(ResourceGroupNotFound) Resource group 'rg-none' could not be found." in az.refused(
        "group show -n rg-none", exit_code=3
    )
    assert az.json("provider show -n Microsoft.App --query registrationState") == "Registered"
    az.text("provider register --wait -n Microsoft.App")
    lines = az.text("provider list -o table").splitlines()
    assert lines[0].split() == ["Namespace", "RegistrationPolicy", "RegistrationState"]
    assert ["Microsoft.Storage", "RegistrationRequired", "Registered"] in [line.split() for line in lines]


def storage_account(world: World) -> None:
    az, name = world.az, world.account
    assert az.json("storage account check-name --name", name)["nameAvailable"] is True
    made = az.json("storage account create -l eastus --sku Standard_LRS -n", name, "-g", world.group)
    assert (made["name"], made["kind"], made["provisioningState"]) == (name, "StorageV2", "Succeeded")
    taken = az.json("storage account check-name --name", name)
    assert (taken["nameAvailable"], taken["reason"]) == (False, "AlreadyExists")
    shown = az.json("storage account show -n", name, "-g", world.group)
    assert shown["primaryEndpoints"]["file"].endswith(f"/{name}/")
    assert name in az.json("storage account list --query [].name")
    assert [key["keyName"] for key in az.json("storage account keys list -n", name)] == ["key1", "key2"]
    share = az.json("storage share-rm create --quota 5 -n second -g", world.group, "--storage-account", name)
    assert (share["name"], share["shareQuota"]) == ("second", 5)


def shares_by_key(world: World) -> None:
    az = world.az
    key = az.json("storage account keys list -n", world.account, "--query", "[0].value")
    access = ["--account-name", world.account, "--account-key", key]
    assert az.json("storage share create -n models --quota 10", *access) == {"created": True}
    assert az.json("storage share create -n models --quota 10", *access) == {"created": False}
    assert az.json("storage share list --query [].name", *access) == ["models", "second"]
    assert az.json("storage share exists -n models", *access) == {"exists": True}
    assert az.json("storage share show -n models --query properties.quota", *access) == 10
    az.json("storage share update -n models --quota 11", *access)
    assert az.json("storage share show -n models --query properties.quota", *access) == 11
    az.json("storage share metadata update -n models --metadata team=a", *access)
    assert az.json("storage share metadata show -n models", *access) == {"team": "a"}
    assert az.json("storage share stats -n models", *access) == "1"  # the CLI's own: GiB, at least 1
    message = az.refused("storage share show -n models --account-name", world.account, "--account-key", "d3Jvbmc=")
    assert "AuthenticationFailed" in message


def files_by_login(world: World) -> None:
    """By the token of whoever is signed in: Azure demands to be told that files' own permissions are passed over."""
    az = world.az
    access = ["--account-name", world.account, "--auth-mode", "login", "--backup-intent"]
    in_share = ["-s", "models", *access]
    assert az.json("storage directory create -n folder", *in_share) == {"created": True}
    assert az.json("storage directory exists -n folder", *in_share) == {"exists": True}
    az.json("storage directory metadata update -n folder --metadata kind=d", *in_share)
    assert az.json("storage directory metadata show -n folder", *in_share) == {"kind": "d"}
    source = world.write("serve.py", SERVER)
    az.json("storage file upload --no-progress -p serve.py --source", source, *in_share)
    shown = az.json("storage file show -p serve.py", *in_share)
    assert (shown["name"], shown["properties"]["contentLength"]) == ("serve.py", len(SERVER))
    assert sorted(az.json("storage file list --query [].name", *in_share)) == ["folder", "serve.py"]
    assert az.json("storage directory list --query [].name", *in_share) == ["folder"]
    target = str(world.folder / "back.py")
    az.json("storage file download --no-progress -p serve.py --dest", target, *in_share)
    assert Path(target).read_text() == SERVER
    message = az.refused("storage file show -p serve.py -s none", *access, exit_code=3)
    assert "ErrorCode:ShareNotFound" in message
    message = az.refused("storage file show -p serve.py -s models --auth-mode login --account-name", world.account)
    assert "--enable-file-backup-request-intent is required" in message


def files_by_connection_string(world: World) -> None:
    az = world.az
    connection = az.json("storage account show-connection-string -n", world.account, "-g", world.group)
    access = ["--connection-string", connection["connectionString"]]
    world.write("up/a.txt", "first")
    world.write("up/deep/er/b c.txt", "second")
    sent = az.json(
        "storage file upload-batch --no-progress -d models --destination-path batch -s", f"{world.folder}/up", *access
    )
    assert [one.rpartition("/models/")[2] for one in sorted(sent)] == ["batch/a.txt", "batch/deep/er/b%20c.txt"]
    (world.folder / "down").mkdir()
    az.json("storage file download-batch --no-progress -s models --pattern batch/* -d", f"{world.folder}/down", *access)
    fetched = {path.name: path.read_text() for path in (world.folder / "down").rglob("*.txt")}
    assert fetched == {"a.txt": "first", "b c.txt": "second"}
    copied = az.json(
        "storage file copy start-batch --source-share models --destination-share second --pattern batch/*", *access
    )
    assert len(copied) == 2
    assert az.json("storage file exists -s second -p batch/a.txt", *access) == {"exists": True}
    az.text("storage file delete-batch -s second --pattern batch/*", *access)
    assert az.json("storage file exists -s second -p batch/a.txt", *access) == {"exists": False}


def files_by_signature(world: World) -> None:
    az = world.az
    allowed = ["--permissions", "rcwl", "--expiry", "2036-01-01T00:00Z", "--https-only"]
    token = az.json("storage share generate-sas -n models --account-name", world.account, *allowed)
    access = ["-s", "models", "--account-name", world.account, "--sas-token", token]
    started = az.json(
        "storage file copy start -p copied.txt --source-share models --source-path batch/a.txt --account-name",
        world.account,
        "-s",
        "models",
    )
    assert started["status"] == "success"
    az.json("storage file metadata update -p copied.txt --metadata a=b", *access)
    assert az.json("storage file metadata show -p copied.txt", *access) == {"a": "b"}
    assert az.json("storage file show -p copied.txt --query properties.contentLength", *access) == 5
    az.json("storage file resize -p copied.txt --size 2", *access)
    assert az.json("storage file show -p copied.txt --query properties.contentLength", *access) == 2
    url = az.json("storage file url -p copied.txt", *access)
    assert url.partition("?")[0].endswith("/models/copied.txt")
    # The signature allows no deletion; these are the CLI's words for AuthorizationPermissionMismatch.
    message = az.refused("storage file delete -p copied.txt", *access)
    assert "You do not have the required permissions needed to perform this operation." in message
    az.json("storage file delete -s models -p copied.txt --account-name", world.account)
    message = az.refused("storage directory delete -s models -n batch --account-name", world.account)
    assert "ErrorCode:DirectoryNotEmpty" in message


def deploy(world: World) -> None:
    az, arguments = world.az, world.deployment
    validated = az.json("deployment group validate -n first", *arguments)
    assert (validated["error"], validated["properties"]["provisioningState"]) == (None, "Succeeded")
    preview = az.text("deployment group what-if -n first", *arguments)
    assert f"Scope: {world.id}\n" in preview
    assert "+ Microsoft.App/containerApps/cli-app [" in preview
    assert f"~ Microsoft.Storage/storageAccounts/{world.account} [" in preview
    assert API_KEY not in preview
    made = az.json("deployment group create -n first", *arguments)["properties"]
    assert (made["provisioningState"], made["mode"], made["error"]) == ("Succeeded", "Incremental", None)
    assert made["parameters"]["apiKey"] == {"type": "SecureString"}
    outputs = az.json("deployment group show -n first --query properties.outputs -g", world.group)
    assert outputs["storagE_ACCOUNT_NAME"] == {"type": "String", "value": world.account}
    changes = az.json("deployment group what-if -n first --no-pretty-print", *arguments)["changes"]
    assert "Create" not in {change["changeType"] for change in changes}
    assert az.json("deployment group list --query [].name -g", world.group) == ["first"]
    operations = az.json("deployment operation group list -n first -g", world.group)
    assert {one["properties"]["provisioningState"] for one in operations} == {"Succeeded"}
    targets = {(one["properties"]["targetResource"] or {}).get("resourceName") for one in operations}
    assert {"cli-app", "cli-env", world.account} <= targets
    message = az.refused("deployment group create -n wrong", *arguments, "cpu=3.3")
    assert '"code": "InvalidTemplateDeployment"' in message
    assert '"code": "ContainerAppInvalidResourceTotal"' in message
    message = az.refused("deployment group create -n wrong", *arguments, "cpu=much")
    assert '"code": "InvalidTemplate"' in message and '"lineNumber"' in message


def cancel(world: World) -> None:
    """A deployment that goes on for seconds: one account after the other."""
    az, group = world.az, ["-g", world.group]
    one = account(f"[concat('clislow{world.number}', copyIndex())]")
    one["copy"] = {"name": "accounts", "count": 60, "mode": "serial", "batchSize": 1}
    file = world.write("slow.json", json.dumps(template([one])))
    az.text("deployment group create --no-wait -n slow -f", file, *group)
    message = az.refused("deployment group create --no-wait -n slow -f", file, *group)
    assert "DeploymentActive" in message
    az.text("deployment group cancel -n slow", *group)
    shown = az.json("deployment group show -n slow", *group)
    assert shown["properties"]["provisioningState"] == "Canceled"
    az.text("deployment group delete -n slow", *group)
    message = az.refused("deployment group show -n slow", *group, exit_code=3)
    assert "(DeploymentNotFound)" in message


def resources(world: World) -> None:
    az = world.az
    listed = {one["type"]: one["name"] for one in az.json("resource list -g", world.group)}
    assert listed["Microsoft.App/containerApps"] == "cli-app"
    assert listed["Microsoft.App/managedEnvironments"] == "cli-env"
    lines = az.text("resource list -o table --resource-type Microsoft.App/containerApps -g", world.group).splitlines()
    assert lines[2].split() == ["cli-app", world.group, "East", "US", "Microsoft.App/containerApps", "Succeeded"]
    shown = az.json("resource show -n cli-app --resource-type Microsoft.App/containerApps -g", world.group)
    assert shown["properties"]["provisioningState"] == "Succeeded"
    by_id = az.json("resource show --ids", f"{world.id}/providers/Microsoft.Storage/storageAccounts/{world.account}")
    assert (by_id["name"], by_id["kind"]) == (world.account, "StorageV2")
    path = f"{world.id}/resources?api-version=2021-04-01"
    assert len(az.json("rest --method get --query value --url", path)) >= 4
    message = az.refused("rest --method get --url", f"{world.id}?api-version=1999-01-01")
    assert "InvalidApiVersionParameter" in message
    name, group = ["-n", f"cli-log-{world.number}"], ["-g", world.group]
    workspace = az.json("monitor log-analytics workspace show", *name, *group)
    assert (workspace["provisioningState"], workspace["retentionInDays"]) == ("Succeeded", 30)
    keys = az.json("monitor log-analytics workspace get-shared-keys", *name, *group)
    assert set(keys) == {"primarySharedKey", "secondarySharedKey"}


def container_app(world: World) -> None:
    az, app = world.az, ["-n", "cli-app", "-g", world.group]
    shown = az.json("containerapp show", *app)
    address = f"https://{shown['properties']['configuration']['ingress']['fqdn']}/"
    answers(world, address)
    assert "cli-app" in az.json("containerapp list --query [].name -g", world.group)
    changed = az.json("containerapp update --set-env-vars GREETING=hello --max-replicas 2", *app)["properties"]
    # The CLI hides the values of the environment in what it prints of an app, not in what it prints of a resource.
    assert {"name": "GREETING"} in changed["template"]["containers"][0]["env"]
    query = ["--query", "properties.template.containers[0].env[?name=='GREETING'].value"]
    assert az.json("resource show --resource-type Microsoft.App/containerApps", *app, *query) == ["hello"]
    assert changed["template"]["scale"]["maxReplicas"] == 2
    revision = changed["latestRevisionName"]
    until(lambda: az.json("containerapp revision list --query [].name", *app) == [revision])
    running = az.json("containerapp revision show --revision", revision, *app)["properties"]
    assert (running["active"], running["trafficWeight"]) == (True, 100)
    answers(world, address)
    assert az.json("containerapp revision restart --revision", revision, *app) == "Restart succeeded"
    assert az.json("containerapp revision deactivate --revision", revision, *app) == "Deactivate succeeded"
    assert az.json("containerapp revision activate --revision", revision, *app) == "Activate succeeded"
    replicas = az.json("containerapp replica list --query [].name --revision", revision, *app)
    assert replicas and all(name.startswith(f"{revision}-") for name in replicas)
    answers(world, address)
    lines = [json.loads(line) for line in az.text("containerapp logs show --tail 20", *app).splitlines()]
    assert lines[0]["Log"] == "Connecting to the container 'cli-app'..."
    assert "listening" in [line["Log"] for line in lines]
    events = [json.loads(line) for line in az.text("containerapp logs show --type system", *app).splitlines()]
    assert "ContainerStarted" in [event.get("Reason") for event in events]
    message = az.refused("containerapp exec --command ls", *app)
    assert "501 Not Implemented" in message and "a shell in a container" in message


def settings_of_the_app(world: World) -> None:
    az, app = world.az, ["-n", "cli-app", "-g", world.group]
    assert az.json("containerapp secret list", *app) == [{"name": "api-key"}, {"name": "api-keys"}]
    assert az.json("containerapp secret show --secret-name api-key", *app)["value"] == API_KEY
    names = [one["name"] for one in az.json("containerapp secret set --secrets third=value", *app)]
    assert names == ["api-key", "api-keys", "third"]
    left = az.json("containerapp secret remove --secret-names third", *app)
    assert left == [{"name": "api-key"}, {"name": "api-keys"}]
    ingress = az.json("containerapp ingress show", *app)
    assert (ingress["external"], ingress["targetPort"], ingress["allowInsecure"]) == (True, 8000, False)
    assert az.json("containerapp ingress traffic show", *app) == [{"latestRevision": True, "weight": 100}]


def environment(world: World) -> None:
    az, group = world.az, ["-g", world.group]
    named = ["-n", "cli-env", *group]
    shown = az.json("containerapp env show", *named)
    assert shown["properties"]["provisioningState"] == "Succeeded"
    assert shown["properties"]["appLogsConfiguration"]["logAnalyticsConfiguration"]["sharedKey"] is None
    assert az.json("containerapp env list --query [].name", *group) == ["cli-env"]
    storage = az.json("containerapp env storage list", *named)[0]
    assert storage["properties"]["azureFile"] == {
        "accessMode": "ReadWrite",
        "accountName": world.account,
        "shareName": "models",
    }
    assert az.json("containerapp env storage show --storage-name cli-storage", *named) == storage
    supported = az.json("containerapp env workload-profile list-supported -l eastus --query [].name")
    assert {"Consumption", "D4", "Consumption-GPU-NC8as-T4"} <= set(supported)
    assert az.json("containerapp env workload-profile list --query [].name", *named) == ["Consumption"]
    usages = az.json("containerapp env list-usages --query value[].name.value", *named)
    assert "ManagedEnvironmentConsumptionCores" in usages
    assert az.json("containerapp list-usages -l eastus")["value"][0]["name"]["value"] == "ManagedEnvironmentCount"
    verification = az.json("containerapp show-custom-domain-verification-id")
    assert verification == shown["properties"]["customDomainConfiguration"]["customDomainVerificationId"]


def second_app(world: World) -> None:
    az, app = world.az, ["-n", "second", "-g", world.group]
    what = ["--environment", "cli-env", "--image", "docker.io/library/python:3.12", "--command", "sleep", "600"]
    made = az.json("containerapp create --cpu 0.5 --memory 1Gi --min-replicas 1", *app, *what)["properties"]
    assert made["template"]["containers"][0]["resources"]["memory"] == "1Gi"
    assert made["configuration"]["ingress"] is None
    message = az.refused("containerapp update --cpu 0.5 --memory 3Gi", *app)
    assert "ContainerAppInvalidResourceTotal" in message
    az.text("containerapp delete --yes", *app)
    assert az.json("containerapp list --query [].name -g", world.group) == ["cli-app"]


def executable(world: World) -> None:
    """The command itself, not the driver."""
    az = world.az
    assert json.loads(az.executable("version"))["azure-cli"]
    assert az.executable("account", "show", "--query", "name", "-o", "tsv") == "inferops stand-in\n"
    state = "properties.runningStatus"
    shown = az.executable("containerapp", "show", "-n", "cli-app", "-g", world.group, "--query", state, "-o", "tsv")
    assert shown == "Running\n"


def delete(world: World) -> None:
    """The group's end is the end of the app's process."""
    az, target = world.az, world.folder / "pid"
    fqdn = "properties.configuration.ingress.fqdn"
    # A machine that is busy was slow enough for the app to be scaled to zero meanwhile.
    answers(world, f"https://{az.json('containerapp show -n cli-app --query', fqdn, '-g', world.group)}/")
    az.json("storage file download --no-progress -s models -p pid --dest", str(target), "--account-name", world.account)
    process = int(target.read_text())
    assert alive(process)
    az.text("containerapp ingress disable -n cli-app -g", world.group)
    assert az.json("containerapp show -n cli-app -g", world.group)["properties"]["configuration"]["ingress"] is None
    az.text("group delete --yes -n", world.group)
    until(lambda: not alive(process))
    assert az.json("group exists -n", world.group) is False
    message = az.refused("containerapp show -n cli-app -g", world.group)
    assert "(ResourceGroupNotFound)" in message
    assert az.json("storage account check-name --name", world.account)["nameAvailable"] is True


def answers(world: World, address: str) -> None:
    """The app is served at its address."""

    def served() -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(address, verify=world.stand_in.trust, timeout=60).text == "hello"
        return False

    until(served)


def alive(process: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, 0)
        return True
    return False


def test_the_azure_cli_does_the_products_job(stand_in: RunningStandIn, tmp_path: Path) -> None:
    with azure_cli(stand_in, tmp_path) as az:
        world = World(stand_in, az, tmp_path, unique())
        register(world)
        sign_in(world)
        groups_and_providers(world)
        storage_account(world)
        shares_by_key(world)
        files_by_login(world)
        files_by_connection_string(world)
        files_by_signature(world)
        deploy(world)
        cancel(world)
        resources(world)
        container_app(world)
        settings_of_the_app(world)
        environment(world)
        second_app(world)
        executable(world)
        delete(world)
        print(f"{len(az.commands)} commands, {len(set(az.commands))} different ones")
        assert len(set(az.commands)) >= 60
