"""The admission policy's own expressions, evaluated over pods: who may come, and what may become of one that is there."""

import cel
import pytest

INJECT, INJECTED, INJECTION = "refrain.dev/inject", "refrain.dev/injected", "refrain.dev/injection"


def pod(inject=None, marked=False, sidecar=None, going=False, image="refrain:1", **labels):
    """A pod; `sidecar` is "native", "plain", or "ends": an init container that does not go on."""
    if inject is not None:
        labels[INJECT] = inject
    if marked:
        labels[INJECTED] = "true"
    metadata = {"name": "p", **({"labels": labels} if labels else {})}
    if going:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    spec = {"containers": [{"name": "triton", "image": "triton:1"}]}
    if sidecar == "plain":
        spec["containers"].insert(0, {"name": "refrain", "image": image})
    if sidecar in ("native", "ends"):
        always = {"restartPolicy": "Always"} if sidecar == "native" else {}
        spec["initContainers"] = [{"name": "refrain", "image": image, **always}, {"name": "other", "image": "other:1"}]
    return {"metadata": metadata, "spec": spec}


def protected(**more):
    return pod(marked=True, sidecar="native", **more)


@pytest.fixture
def verdict(helm):
    """What the policy says of a pod: None where it may pass, else the reason."""
    policy = helm.render().one("ValidatingAdmissionPolicy")["spec"]

    def say(new, old=None, opted_in=False):
        namespace = {"metadata": {"name": "n", **({"labels": {INJECTION: "enabled"}} if opted_in else {})}}
        names = {
            "object": new,
            "oldObject": old,
            "request": {"operation": "UPDATE" if old else "CREATE"},
            "namespaceObject": namespace,
            "variables": {},
        }
        for condition in policy["matchConditions"]:
            if not cel.evaluate(condition["expression"], names):
                return None
        for variable in policy["variables"]:
            names["variables"][variable["name"]] = cel.evaluate(variable["expression"], names)
        for validation in policy["validations"]:
            if not cel.evaluate(validation["expression"], names):
                return validation.get("message") or cel.evaluate(validation["messageExpression"], names)
        return None

    return say


WITHOUT, RUNNING, STAYS, FALSE_MARK = "came without the sidecar", "into a running pod", "stays on the pod", "for pods with the sidecar"
IMAGE = "keeps its image"

CREATED = [
    # pod, is its namespace opted in, what is said
    (pod(), False, None),
    (pod(app="x"), False, None),
    (pod(inject="false"), True, None),
    (pod(inject="true"), False, WITHOUT),
    (pod(), True, WITHOUT),
    (pod(app="x"), True, WITHOUT),
    (protected(inject="true"), False, None),
    (protected(), True, None),
    (pod(inject="true", marked=True, sidecar="plain"), False, None),
    (pod(inject="true", marked=True), False, WITHOUT),
    (pod(inject="true", sidecar="native"), False, WITHOUT),
    (pod(marked=True), False, FALSE_MARK),
    # A slip of the pen.
    (pod(inject="True"), False, WITHOUT),
    (pod(inject="yes"), True, WITHOUT),
    # An init container that ends is no sidecar.
    (pod(inject="true", marked=True, sidecar="ends"), False, WITHOUT),
]

UPDATED = [
    # before, after, is its namespace opted in, what is said
    (pod(), pod(inject="true"), False, RUNNING),
    (pod(app="x"), pod(app="x", inject="true"), True, RUNNING),
    (pod(inject="false"), pod(), True, RUNNING),
    # It was there before anybody opted in: status, owners and finalizers must be able to change.
    (pod(), pod(app="x"), True, None),
    (pod(inject="true"), pod(inject="true", app="x"), False, None),
    (protected(inject="true"), protected(inject="true", app="x"), False, None),
    (protected(inject="true"), pod(inject="true", sidecar="native"), False, STAYS),
    (protected(inject="true"), pod(inject="false", sidecar="native"), False, STAYS),
    (protected(inject="true"), protected(inject="false"), False, None),
    (pod(), pod(marked=True), False, FALSE_MARK),
    (protected(), protected(image="relay:1"), False, IMAGE),
    # One that is going may lose everything.
    (pod(inject="false"), pod(inject="true", going=True), False, None),
]


@pytest.mark.parametrize(("new", "opted_in", "said"), CREATED)
def test_who_may_come(verdict, new, opted_in, said):
    found = verdict(new, opted_in=opted_in)
    assert (said is None) == (found is None) and (said or "") in (found or ""), found


@pytest.mark.parametrize(("old", "new", "opted_in", "said"), UPDATED)
def test_what_may_become_of_one_that_is_there(verdict, old, new, opted_in, said):
    found = verdict(new, old, opted_in)
    assert (said is None) == (found is None) and (said or "") in (found or ""), found


def test_the_refusal_names_the_webhook(verdict):
    assert "refrain-webhook in namespace refrain" in verdict(pod(inject="true"))


def test_it_denies_and_fails_closed(helm):
    rendered = helm.render()
    policy = rendered.one("ValidatingAdmissionPolicy")
    assert policy["spec"]["failurePolicy"] == "Fail"
    binding = rendered.one("ValidatingAdmissionPolicyBinding")["spec"]
    assert binding == {"policyName": policy["metadata"]["name"], "validationActions": ["Deny"]}
    assert policy["spec"]["matchConstraints"]["resourceRules"][0]["operations"] == ["CREATE", "UPDATE"]
