#!/usr/bin/env bash
# Waits until the cloud says that it takes this spot machine back, and drains the node then, with the time that is left.
#   spot-notice.sh aws|gcp
# METADATA_URL is where the cloud's metadata service answers, if elsewhere than usual.
set -euo pipefail

cloud=${1:?usage: spot-notice.sh aws|gcp}
here=$(cd "$(dirname "$0")" && pwd)

# One is enough: the start commands are run again when the cluster is updated.
exec 9> "$HOME/.spot-notice.lock"
flock --nonblock 9 || exit 0

aws_notice() {
    local url=${METADATA_URL:-http://169.254.169.254}/latest token # IMDSv2
    token=$(curl -sf -m 2 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$url/api/token") || return 1
    curl -sf -m 2 -H "X-aws-ec2-metadata-token: $token" "$url/meta-data/spot/instance-action"
}
gcp_notice() {
    local url=${METADATA_URL:-http://metadata.google.internal}/computeMetadata/v1
    curl -sf -m 2 -H 'Metadata-Flavor: Google' "$url/instance/preempted" | grep -x TRUE
}

case $cloud in
aws) # two minutes; the notice has the time of their end
    until notice=$(aws_notice); do sleep 5; done
    goes=$(sed -nE 's/.*"time": *"([^"]+)".*/\1/p' <<< "$notice")
    seconds=$(($(date -d "$goes" +%s) - $(date +%s)))
    ;;
gcp) # thirty seconds
    until gcp_notice > /dev/null; do sleep 1; done
    seconds=30
    ;;
*)
    echo "spot-notice.sh: $cloud is neither aws nor gcp" >&2
    exit 2
    ;;
esac

echo "$(date -Is) the machine is taken back in $seconds s"
exec "$here/drain.sh" "$((seconds > 0 ? seconds : 0))" "spot machine taken back by $cloud"
