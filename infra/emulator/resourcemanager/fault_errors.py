"""What the fault switch asks for, in the resource manager's words."""

from __future__ import annotations

from aiohttp import web

from infra.emulator import faults
from infra.emulator.exceptions import AzureError
from infra.emulator.fault_switch import Fault
from infra.emulator.identity import expired_token


def of_fault(fault: Fault, request: web.Request, subscription: str) -> AzureError:
    """Codes: "Understand how Azure Resource Manager throttles requests" and "Troubleshoot common deployment errors"."""
    if fault.kind == faults.EXPIRED_TOKEN:
        return expired_token()
    if fault.kind == faults.THROTTLED:
        kind = {"GET": "reads", "HEAD": "reads", "DELETE": "deletes"}.get(request.method, "writes")
        throttled = (
            f"Number of '{kind[:-1]}' requests for subscription '{subscription}' actor '' exceeded. Please try again"
            f" after '{fault.retry_after_seconds}' seconds after additional tokens are available. Refer to"
            " https://aka.ms/arm-throttling for additional information."
        )
        headers = {**fault.headers, f"x-ms-ratelimit-remaining-subscription-{kind}": "0"}
        return AzureError(429, "SubscriptionRequestsThrottled", throttled, headers=headers, from_gateway=True)
    code, message = fault.code, fault.message
    if fault.kind == faults.UNAVAILABLE:
        code, message = "ServiceUnavailable", "The service is temporarily unavailable. Please try again later."
    elif fault.kind == faults.INTERNAL_ERROR:
        code = "InternalServerError"
        message = f"Encountered internal server error. Diagnostic information: method '{request.method}'."
    assert code is not None and message is not None, fault
    return AzureError(fault.status, code, message, headers=fault.headers, from_gateway=True)
