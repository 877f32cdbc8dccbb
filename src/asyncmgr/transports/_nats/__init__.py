"""The transport over NATS: `transport` on `reconnect` (a link) on `connection` on `protocol` (pure), `store` beside it.

Why not the client library, nats-py (2.16)? Its reader dies of one subject that is not UTF-8 and stays "connected". A
PING overtakes a pending SUB, UNSUB or PUB, so that leaving a queue group loses messages (3,394 in 475 leaves). Closing
waits for ever on a stopped peer. TLS that the server does not require is dropped in silence, after the password was
asked for. Its public interface alone saves 4 % of these lines and costs 20 % more CPU a call. Mended, it may come back.
"""
