# shellcheck shell=bash
# Read by every shell on a node of a launcher's cluster, and so by all processes of Ray.
export PATH="$HOME/foundray/venv/bin:$PATH"
# Nobody joins without the token, which lies in ~/.ray/auth_token.
export RAY_AUTH_MODE=token
# Threads that wait for each other sleep: spinning ones take the cores from those that compute.
export OMP_WAIT_POLICY=PASSIVE
# A node that falls silent is given up after about ten seconds; Ray's own patience is over a minute.
export RAY_health_check_period_ms=1000
export RAY_health_check_timeout_ms=3000
export RAY_health_check_failure_threshold=5
