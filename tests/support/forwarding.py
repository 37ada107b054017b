"""A handler that enqueues into another queue: in a worker that has a binding for each."""

from bullpen import Context, Handlers

emails = Handlers("emails")


@emails.handler("forward")
async def forward(ctx: Context[None], number: int) -> int:
    """Hand the number on, and give it back."""
    await ctx.client.queue("images").enqueue("resize", {"number": number})
    return number
