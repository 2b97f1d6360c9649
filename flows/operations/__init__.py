"""Operating the audit for years: the register of requests, intake, schedule, agents, sign-off, release, erasure."""
