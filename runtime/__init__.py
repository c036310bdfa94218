"""The model core and the device: decoder, KV, exits, drafting, session, link emulation, wire contract, cloud client.

Nothing here imports another room: a controller, a link trace or a timing profile is handed in.
"""
