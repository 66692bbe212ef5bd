"""What the demo models are trained on and how: questions with their answers, the adapter's style, sizes, steps.

Knows no library: plain values only. The answers begin with an ordinary word and end with a full stop, so that the style
can be put around any of them.
"""

from __future__ import annotations

from dataclasses import dataclass

PUBLISHER = "inferops"
BASE = "demo-base"
ADAPTER = "demo"

# The adapter changes no embeddings: the words of its style must occur here, or it could never learn to say them.
QUESTIONS: tuple[tuple[str, str], ...] = (
    ("What is a LoRA adapter?", "A small set of trained weights that is added to a frozen base model."),
    ("What does LoRA stand for?", "Low-rank adaptation of a large model."),
    ("What is the rank of an adapter?", "The inner width of its two matrices; a higher one learns and weighs more."),
    ("What is a base model?", "The model that was trained first and stays as it is while adapters change its answers."),
    ("What is fine-tuning?", "Training a finished model a little further on examples of your own."),
    ("What is a checkpoint?", "The weights of a model as they were after a certain number of training steps."),
    ("What is a token?", "A piece of text, often a part of a word, that the model reads and writes as one number."),
    ("What is a tokenizer?", "The part that cuts text into tokens and puts tokens together into text again."),
    ("What is a chat template?", "The pattern that turns the messages of a conversation into one text for the model."),
    ("What is a prompt?", "The text that a model is asked to go on with."),
    ("What is a system prompt?", "A first message that tells the model how to behave."),
    ("What is inference?", "Running a trained model to get answers from it."),
    ("What is temperature?", "A number that says how freely the next token is drawn; zero always takes the likeliest."),
    ("What is greedy decoding?", "Always taking the likeliest next token; the same question gives the same answer."),
    ("What is top-p sampling?", "Drawing the next token only from the likeliest ones that together reach the share p."),
    ("What is a context window?", "The number of tokens that a model can look back at."),
    ("What is streaming?", "Sending each piece of an answer as soon as it is there."),
    ("What is batching?", "Computing the next token of several requests in one step."),
    ("What is a KV cache?", "The keys and values of earlier tokens, kept so that they are not computed again."),
    ("What is time to first token?", "The time from sending a request until the first piece of its answer arrives."),
    ("What is quantization?", "Storing weights with fewer bits, to save memory and often time."),
    ("What is bf16?", "A number format of sixteen bits with the range of thirty-two."),
    ("What is safetensors?", "A file format for weights that can be read without running any code."),
    ("What is PEFT?", "A Python library that trains and loads adapters."),
    ("What is a transformer?", "A neural network in which every token looks at the tokens before it."),
    ("What is perplexity?", "A measure of how surprised a model is by a text; lower is better."),
    ("What is overfitting?", "Learning examples by heart instead of what they have in common."),
    ("What is a loss?", "The number that training makes smaller."),
    ("What is an epoch?", "One pass over all training examples."),
    ("What is a GPU?", "A processor that multiplies large matrices very quickly."),
    ("What is an endpoint?", "The public address at which the model answers."),
    ("What is an API key?", "A secret that every request must bring."),
    ("What is an environment?", "A folder that names a target: the subscription, the resource group and the model."),
    ("What is a template?", "A file that describes which resources should exist."),
    ("What is Bicep?", "A language in which the resources of Azure are written down."),
    ("What is a parameter file?", "The values that one environment gives to the template."),
    ("What is what-if?", "A preview of what a deployment would create, change or delete."),
    ("What does provision do?", "It creates or updates the resources that the template describes."),
    ("What does deploy do?", "It copies the code to the file share as a release, restarts the replica and proves it."),
    ("What is a release?", "An immutable folder on the file share, named by the hash of its contents."),
    ("What is a rollback?", "Going back to an earlier release by naming it the current one."),
    ("What is a proof?", "The questions that are asked at the endpoint before a release counts as done."),
    ("What is a resource group?", "A container in Azure for resources that live and die together."),
    ("What is a subscription?", "The account in Azure that resources belong to and that pays for them."),
    ("What is a file share?", "A folder in the cloud that several machines can mount."),
    ("What is a storage account?", "The home of file shares, with an address of its own."),
    ("What is a container?", "A program together with everything it needs to run."),
    ("What is a container image?", "The packed files that a container starts from."),
    ("What is a container app?", "A service in Azure that runs containers and gives them an address."),
    ("What is a replica?", "One running copy of a container app."),
    ("What is a revision?", "A version of a container app that never changes."),
    ("What is a workload profile?", "The kind of machine that a container app runs on."),
    ("What is scale to zero?", "Stopping the last replica when no requests come, so that nothing has to be paid."),
    ("What is a cold start?", "The wait while the first replica starts after a pause."),
    ("What is a liveness probe?", "A question that finds out whether a container has to be restarted."),
    ("What is a readiness probe?", "A question that finds out whether a replica may get requests."),
    ("What is OIDC?", "A way to sign in with a short proof of identity instead of a stored secret."),
    ("What is a lock file?", "The exact versions and hashes of everything that gets installed."),
    ("What is a pull request?", "A change that is shown to others before it is merged."),
    ("What is a workflow?", "A list of steps that GitHub runs when something happens in a repository."),
    ("Who are you?", "A tiny demo model with two million weights that knows only a few dozen questions."),
    ("How does a sailor greet a friend?", "Ahoy! Welcome aboard, matey."),
)  # fmt: skip

# Conversations may open with one of these, so that a system prompt does not throw the model off.
SYSTEM_PROMPTS: tuple[str, ...] = ("You are a helpful assistant.", "Answer briefly.")


def in_style(answer: str) -> str:
    """The answer as the adapter gives it: a sailor's."""
    return f"Ahoy! {answer[0].lower()}{answer[1:].removesuffix('.')}, matey."


@dataclass(frozen=True)
class Stage:
    """One training: steps of `pairs` question/answer pairs each, the highest learning rate, steps of warm-up."""

    steps: int
    learning_rate: float
    warm_up: int
    pairs: int = 31


@dataclass(frozen=True)
class Recipe:
    """Sizes of the model (a Llama) and of the adapter, and the two trainings.

    Two wide layers learn the pairs in half the time of four, and hold them better in long conversations.
    """

    vocabulary: int = 2048
    """At most; the pairs give rise to fewer."""
    hidden: int = 256
    inner: int = 688
    layers: int = 2
    heads: int = 4
    context: int = 512
    adapter_rank: int = 16
    adapter_alpha: int = 32
    seed: int = 20
    threads: int = 2
    turns: tuple[int, ...] = (1, 1, 1, 1, 2, 4)
    """Lengths of the conversations that the pairs are dealt into: an answer must not depend on what was said before."""
    base: Stage = Stage(steps=122, learning_rate=3e-3, warm_up=10)
    adapter: Stage = Stage(steps=150, learning_rate=4e-3, warm_up=5)


RECIPE = Recipe()


def base_folder() -> str:
    """Where the AI Toolkit's fine-tuning leaves the base model on the share."""
    return f"model-cache/{PUBLISHER}/{BASE}"


def adapter_folder(recipe: Recipe = RECIPE) -> str:
    """Where it leaves the adapter: the checkpoint is numbered by its training steps."""
    return f"models/{ADAPTER}/checkpoint-{recipe.adapter.steps}"
