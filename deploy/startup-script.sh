#!/bin/bash
# The startup script of a VM that runs longrun-agent: Container-Optimized OS runs it at every boot.
#
#     gcloud compute instances create … --metadata-from-file=startup-script=startup-script.sh \
#         --metadata=agent-image=europe-docker.pkg.dev/PROJECT/longrun/agent:1
#
# Needs what COS has: bash, curl, sed, docker. Nothing is written but below /run and /var/lib/longrun: the root is
# read-only there, and /root too. Run again, by a boot or by hand, it starts no job again: the agent's journal knows.
set -o pipefail
metadata=http://169.254.169.254/computeMetadata/v1/instance

ask() {
    curl --silent --show-error --fail --retry 30 --retry-delay 2 --retry-connrefused --max-time 10 \
        --header 'Metadata-Flavor: Google' "$metadata/$1"
}

# A token of the VM's service account for Google's registries, and for nobody else. It goes through pipes into a
# folder in memory, never onto a command line, and is gone with the folder.
log_in() {
    registry=$(printf %s "$image" | cut -d / -f 1)
    case $registry in
    gcr.io | *.gcr.io | *.pkg.dev) ;;
    *) return 0 ;;
    esac
    ask service-accounts/default/token | sed -n 's/.*"access_token" *: *"\([^"]*\)".*/\1/p' |
        docker login --username oauth2accesstoken --password-stdin "$registry" >/dev/null
}

# Says on the serial console why no job runs here, and switches the VM off: who waits for it finds it TERMINATED, and it
# costs no more than its disk.
give_up() {
    echo "longrun: $1; no job runs on this VM, and it is powered off" >&2
    systemctl poweroff
    exit 1
}

image=$(ask attributes/agent-image) || give_up "the attribute agent-image is missing; expected the agent's image"
DOCKER_CONFIG=$(mktemp -d /run/longrun.XXXXXX)
export DOCKER_CONFIG
trap 'rm -rf "$DOCKER_CONFIG"' EXIT

# Docker, the network and a new grant may take minutes. What an earlier boot pulled is there.
tries=0
until docker image inspect "$image" >/dev/null 2>&1 || { log_in && docker pull --quiet "$image"; }; do
    tries=$((tries + 1))
    [ $tries -lt 20 ] || give_up "the agent's image $image cannot be pulled"
    sleep 10
done

# A container sees the VM's processes, and may enter the VM, only where the job is a command of the VM's own.
host=
if ask attributes/host-command >/dev/null 2>&1; then host="--pid=host --privileged"; fi

docker rm --force longrun-agent >/dev/null 2>&1
# shellcheck disable=SC2086 # two words, or none
docker run --detach --name longrun-agent --restart on-failure:5 --network host --oom-score-adj -900 \
    -v /var/lib/longrun:/var/lib/longrun -v /sys/fs/cgroup:/sys/fs/cgroup:ro \
    -v /var/run/docker.sock:/var/run/docker.sock $host "$image" || give_up "the agent cannot be started"

# Where it fails at once, Docker has tried five times within seconds. 76 says that nobody waits for the report.
for _ in {1..30}; do
    state=$(docker inspect --format '{{.State.Status}} {{.State.ExitCode}}' longrun-agent)
    case $state in
    "exited 0" | "exited 76") break ;;
    exited*)
        docker logs --tail 10 longrun-agent >&2
        give_up "the agent $state"
        ;;
    esac
    sleep 1
done
