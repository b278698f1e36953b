"""The door for other people's agents: runs, briefs and answers over the Model Context Protocol.

In: tool calls of an agent, over stdio or HTTP. Out: typed results with short texts, and runs in their folders. Left to
others: everything that is searched and measured; the same desk serves `kernelevolve ask` and `kernelevolve submit`.
"""
