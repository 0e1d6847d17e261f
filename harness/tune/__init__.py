"""`armbench tune`: the best engine, dtype, threads, instances and batch for an objective here.

`space` lists the candidates, `limits` says what each could reach at best, `search` decides the
next step from what is known, `conduct` takes it in real processes, `outcome` draws the answer.
"""
