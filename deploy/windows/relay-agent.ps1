#Requires -RunAsAdministrator
# The agent on Windows, for a whole machine. Printed by
# `relay-agent service install --dry-run --for windows`; run it in an elevated PowerShell.
#
# The agent is a console program and does not speak the protocol of Windows services (New-Service and
# sc.exe would start it and give up on it after 30 s), so it runs as a task that starts with the machine,
# under an account that may do next to nothing. A stopped task is killed: what is in hand is offered again.
#
#   Stop-ScheduledTask 'Hookferry agent'; Start-ScheduledTask 'Hookferry agent'
#   Unregister-ScheduledTask 'Hookferry agent'

$ErrorActionPreference = 'Stop'
$program = 'C:\Program Files\Hookferry\relay-agent.exe'
$config = 'C:\ProgramData\Hookferry\agent.toml'
$token = 'C:\ProgramData\Hookferry\agent.token'
$data = 'C:\ProgramData\Hookferry\agent'

New-Item -ItemType Directory -Force -Path $data | Out-Null
icacls $data /inheritance:r /grant:r '*S-1-5-18:(OI)(CI)F' '*S-1-5-32-544:(OI)(CI)F' '*S-1-5-19:(OI)(CI)M' | Out-Null
icacls $token /inheritance:r /grant:r '*S-1-5-18:F' '*S-1-5-32-544:F' '*S-1-5-19:R' | Out-Null

$run = "`"$program`" run --config `"$config`" --token-file `"$token`" --data-dir `"$data`""
$action = New-ScheduledTaskAction -Execute 'cmd.exe' -Argument "/d /c `"$run 2>> `"$data\agent.log`"`""
$trigger = New-ScheduledTaskTrigger -AtStartup
# LOCAL SERVICE, by its number: its name differs from language to language.
$principal = New-ScheduledTaskPrincipal -UserId 'S-1-5-19' -LogonType ServiceAccount
$settings = New-ScheduledTaskSettingsSet -ExecutionTimeLimit ([TimeSpan]::Zero) `
    -RestartCount 999 -RestartInterval (New-TimeSpan -Minutes 1) -StartWhenAvailable `
    -AllowStartIfOnBatteries -DontStopIfGoingOnBatteries
Register-ScheduledTask -TaskName 'Hookferry agent' -Action $action -Trigger $trigger `
    -Principal $principal -Settings $settings | Out-Null
Start-ScheduledTask -TaskName 'Hookferry agent'
