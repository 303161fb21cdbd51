#!/bin/bash
# A SLURM of one node with two pretend GPUs, for tests. Root, on Debian:
#   apt-get install -y --no-install-recommends slurmctld slurmd slurm-client munge
#   tests/slurm/cluster.sh start FOLDER    # prints the SLURM_CONF that its users need
#   tests/slurm/cluster.sh stop FOLDER
# A cell that dies hard is noticed without `sacct`: `hydra/launcher=slurm` asks the queue.
# Nothing listens beyond 127.0.0.1, no service manager is needed, no accounts are kept.
set -eu
folder=${2:?start or stop, and a folder}
mkdir -p "$folder" && folder=$(cd "$folder" && pwd)
node=$(hostname -s)

configure() {
    mkdir -p "$folder"/{spool,state}
    install -d -m 0755 "$folder/munge"
    (umask 077 && head -c 128 /dev/urandom > "$folder/munge/key") # of this cluster alone
    memory=$(($(awk '/MemTotal/{print $2}' /proc/meminfo) / 1024 * 9 / 10))
    cat > "$folder/slurm.conf" <<CONF
ClusterName=small
SlurmctldHost=$node(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
AuthType=auth/munge
CredType=cred/munge
# what is requeued may start again after this many seconds, else 120
AuthInfo=socket=$folder/munge/socket,cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
ReturnToService=2
MailProg=/bin/true
KillWait=5
OverTimeLimit=0
GresTypes=gpu
NodeName=$node NodeAddr=127.0.0.1 Gres=gpu:2 CPUs=$(nproc) RealMemory=$memory State=UNKNOWN
PartitionName=debug Nodes=$node Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
CONF
    printf "NodeName=$node Name=gpu File=%s\n" /dev/zero /dev/full > "$folder/gres.conf"
}

start() {
    configure
    export SLURM_CONF=$folder/slurm.conf
    # --force: folders that are root's alone will do, since its users are root
    munged --force --num-threads=2 --key-file="$folder/munge/key" --socket="$folder/munge/socket" \
        --pid-file="$folder/munge/pid" --log-file="$folder/munge/log" \
        --seed-file="$folder/munge/seed"
    slurmctld -c -f "$SLURM_CONF"
    slurmd -f "$SLURM_CONF" -N "$node"
    for _ in $(seq 120); do
        sinfo -h -o %T 2>> "$folder/sinfo.log" | grep -q idle && echo "$SLURM_CONF" && return
        sleep 0.25
    done
    echo "the node did not become idle; see $folder/*.log" >&2
    stop
    return 1
}

stop() {
    for file in "$folder"/{slurmd.pid,slurmctld.pid,munge/pid}; do
        [ -e "$file" ] && kill "$(cat "$file")"
    done
    return 0
}

"$1"
